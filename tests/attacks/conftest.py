"""What attacks have in common: a list of figures, printed and written at the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.attacks.figures import Figures, write


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-figures",
        action="store_true",
        help="write what attacks were measured into docs/operating.md",
    )


@pytest.fixture(scope="session")
def report(request: pytest.FixtureRequest) -> Iterator[list[Figures]]:
    """Attacks add their figures to it."""
    figures: list[Figures] = []
    yield figures
    if figures and request.config.getoption("--write-figures", default=False):
        write(figures)
