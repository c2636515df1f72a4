"""One browser for all, one demo and one profile for each module, tabs for each test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.world import PATIENCE, Demo, Visit, chromium, find_chromium

expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="package")  # not longer: Playwright leaves an event loop in the thread
def browser() -> Iterator[Browser]:
    """Missing, these tests are skipped; in CI that is a failure."""
    path = find_chromium()
    if path is None:
        reason = "needs Chromium in the PATH: apt-get install chromium"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with chromium(path) as running:
        yield running


@pytest.fixture(scope="module")
def demo(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    with Demo(tmp_path_factory.mktemp("demo")) as running:
        yield running


@pytest.fixture(scope="module")
def profile(browser: Browser, demo: Demo) -> Iterator[Visit]:
    context = browser.new_context()
    yield Visit(demo, context)
    context.close()


@pytest.fixture
def visit(profile: Visit) -> Iterator[Visit]:
    """No tab is open yet. Ends with a look for tokens where none may be."""
    yield profile
    profile.check_no_token_is_seen()
    profile.leave()
