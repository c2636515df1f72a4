"""Makes the pictures of `docs/systems.md`: `make screenshots`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import Browser, Page

from tests.browser.world import PASSWORD, Demo, Visit, chromium, find_chromium
from trioserver.auth import make_token

IMAGES: Final = Path(__file__).parents[2] / "docs" / "images"
LARGEST: Final = 100_000
"""Bytes of a picture."""

WIDE: Final = {"width": 1000, "height": 720}
PHONE: Final = {"width": 360, "height": 640}

TEXT: Final = """\
The oak grows slowly. It may live for a thousand years, and its wood is hard.

The birch grows quickly. It rarely lives for more than a hundred years.

The yew is said to be the oldest tree of Europe. Some are older than two thousand years.
"""


def main() -> None:
    """Take them all."""
    path = find_chromium()
    if path is None:
        sys.exit("needs Chromium in the PATH: apt-get install chromium")
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as data, Demo(Path(data)) as demo, chromium(path) as browser:
        wide = _visit(demo, browser, viewport=WIDE, color_scheme="light")
        dark = _visit(demo, browser, viewport=WIDE, color_scheme="dark")
        phone = _visit(demo, browser, viewport=PHONE, color_scheme="dark")
        _login(wide)
        _tester(wide)
        _coach(wide)
        _conversation(dark)
        _conversation_on_a_phone(phone)
        _dashboard(dark)


def _visit(demo: Demo, browser: Browser, **options: Any) -> Visit:
    return Visit(demo, browser.new_context(reduced_motion="reduce", **options))


def _save(page: Page, name: str) -> None:
    page.evaluate("scrollTo(0, 0)")
    page.screenshot(path=IMAGES / f"{name}.png")
    size = (IMAGES / f"{name}.png").stat().st_size
    assert size < LARGEST, f"{name}.png has {size} bytes"
    print(f"docs/images/{name}.png, {size} bytes")


def _ready(page: Page) -> Page:
    page.locator("#state[data-state=connected]").wait_for()
    return page


def _ask(page: Page, label: str, text: str) -> None:
    page.get_by_label(label).fill(text)
    page.keyboard.press("Enter")
    page.locator(".assistant > .meta", has_text="complete").last.wait_for()


def _login(visit: Visit) -> None:
    page = visit.open("/login?next=/dashboard&reason=token_expired")
    page.get_by_label("Name").fill("admin")
    page.get_by_label("Password").fill(PASSWORD)
    _save(page, "login")


def _tester(visit: Visit) -> None:
    page = visit.open("/tester")
    page.get_by_label("Token").fill(visit.demo.token("alice"))
    page.get_by_label("Route").fill("/ws")
    page.get_by_role("button", name="Connect", exact=True).click()
    page.get_by_text("Ready, as alice").wait_for()
    page.get_by_label("Example of a message").select_option(index=2)
    page.get_by_role("button", name="Send").click()
    page.locator("#log").get_by_text('"end"').wait_for()
    page.set_viewport_size({"width": 800, "height": 860})
    _save(page, "tester")


def _coach(visit: Visit) -> None:
    page = _ready(visit.open("/coach", user="alice"))
    page.get_by_label("Plain text, Markdown").set_input_files(
        {"name": "trees.md", "mimeType": "text/markdown", "buffer": TEXT.encode()}
    )
    page.get_by_role("button", name="Upload").click()
    page.get_by_text("trees.md is stored").wait_for()
    _ask(page, "Your question", "How old does an oak get?")
    _save(page, "coach")


def _conversation(visit: Visit) -> None:
    page = _ready(visit.open("/conversation", user="alice"))
    page.get_by_label("Say something").fill("I like old trees")
    page.get_by_role("button", name="Only note it").click()
    page.get_by_text("stored, ").wait_for()
    _ask(page, "Say something", "What about old trees?")
    page.get_by_text("Calls search_history").click()
    _save(page, "conversation")


def _conversation_on_a_phone(visit: Visit) -> None:
    page = _ready(visit.open("/conversation", user="alice"))
    page.locator("#said > li").nth(2).wait_for()
    _save(page, "conversation-phone")


def _dashboard(visit: Visit) -> None:
    page = _ready(visit.open("/dashboard", user="admin"))
    expired = make_token(
        visit.demo.secret, subject="bob", lifetime=-3600.0, audience="conversations"
    )
    visit.open("/conversation?id=bob-1", token=expired)
    other = _ready(visit.open("/conversation?id=alice-2", user="alice"))
    for number in range(4):  # the charts want something to show
        _ask(other, "Say something", "What about old trees? " * (number + 1))
        page.wait_for_timeout(1500)
    page.get_by_role("textbox", name="Message").fill("Back in five minutes")
    page.get_by_role("button", name="Broadcast").click()
    page.locator("#broadcasts > li").wait_for()
    page.set_viewport_size({"width": 900, "height": 1000})
    _save(page, "dashboard")


if __name__ == "__main__":
    main()
