"""Each page, judged by axe-core; and what it cannot judge: keyboard, live regions, a phone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.world import Demo, Visit

AXE: Final = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"

PAGES: Final = {
    "/": None,
    "/login?reason=token_expired": None,
    "/tester": None,
    "/conversation?id=alice-1": "alice",
    "/coach": "alice",
    "/dashboard": "admin",
}


@pytest.fixture(scope="module")
def axe() -> str:
    if not AXE.exists():
        reason = "needs axe-core, which `make test` installs with npm"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return AXE.read_text()


def open_page(visit: Visit, path: str) -> Page:
    user = PAGES[path]
    page = visit.open(path, user=user)
    if user is not None:
        expect(page.locator("#state")).to_have_attribute("data-state", "connected")
    return page


def fill(page: Page, path: str) -> None:
    """Something to judge."""
    if path.startswith("/conversation"):
        page.get_by_label("Say something").fill("What about trees?")
        page.keyboard.press("Enter")
        expect(page.locator("#said")).to_contain_text("complete")
    elif path == "/coach":
        page.get_by_label("Your question").fill("What about trees?")
        page.keyboard.press("Enter")
        expect(page.locator("#answers")).to_contain_text("complete")
    elif path == "/dashboard":
        expect(page.locator("#attempts tr").first).to_be_visible()
        expect(page.locator("#connections tr").first).to_be_visible()


def violations(page: Page, **options: Any) -> list[tuple[str, list[str]]]:
    """What axe calls worse than minor: the rule, and where."""
    result = page.evaluate("options => axe.run(options)", options)
    return [
        (violation["id"], [node["html"] for node in violation["nodes"]])
        for violation in result["violations"]
        if violation["impact"] != "minor"
    ]


@pytest.fixture(scope="module")
def judged(browser: Browser, demo: Demo) -> Iterator[Visit]:
    """Axe is injected, which the policy of the pages forbids, as it should."""
    context = browser.new_context(color_scheme="light", bypass_csp=True)
    yield Visit(demo, context)
    context.close()


@pytest.mark.parametrize("path", PAGES)
def test_axe_finds_no_violation_in_light_and_dark_and_the_page_fits_a_phone(
    path: str, judged: Visit, axe: str
) -> None:
    page = open_page(judged, path)
    fill(page, path)
    page.evaluate(axe)
    assert not violations(page)
    page.emulate_media(color_scheme="dark")
    assert not violations(page, runOnly=["color-contrast"])
    page.set_viewport_size({"width": 360, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.close()


def test_the_keyboard_skips_to_the_content(visit: Visit) -> None:
    page = visit.open("/tester")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Token")).to_be_focused()


def test_nothing_moves_for_who_does_not_want_it(visit: Visit) -> None:
    page = visit.open("/tester")
    page.emulate_media(reduced_motion="reduce")
    page.locator("#state").evaluate("state => { state.dataset.state = 'connecting' }")
    name = "state => getComputedStyle(state, '::before').animationName"
    assert page.locator("#state").evaluate(name) == "none"
    page.emulate_media(reduced_motion="no-preference")
    assert page.locator("#state").evaluate(name) == "pulse"
