"""The study coach: a text is uploaded, a question answered, what it rests on shown beside it."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from tests.browser.world import Demo, Visit

TEXT = """\
# Trees

The oak grows slowly and may live for a thousand years.

The birch grows quickly and rarely lives for more than a hundred years.
"""


def wait_connected(page: Page) -> None:
    expect(page.locator("#state")).to_have_attribute("data-state", "connected")


def upload(page: Page, name: str, text: str) -> None:
    page.get_by_label("Plain text, Markdown").set_input_files(
        {"name": name, "mimeType": "text/markdown", "buffer": text.encode()}
    )
    page.get_by_role("button", name="Upload").click()


def ask(page: Page, question: str) -> None:
    page.get_by_label("Your question").fill(question)
    page.keyboard.press("Enter")


def test_an_answer_rests_on_passages_that_stand_beside_it(visit: Visit) -> None:
    page = visit.open("/coach", user="alice")
    wait_connected(page)
    expect(page.locator("#texts")).to_have_text("None yet.")
    upload(page, "trees.md", TEXT)
    expect(page.locator("#uploaded")).to_contain_text("trees.md is stored")
    ask(page, "How long does an oak live?")
    expect(page.locator("#answers > li.assistant")).to_contain_text("complete")
    expect(page.locator("#answers > li.assistant")).to_contain_text("thousand years")
    expect(page.locator("#passages")).to_contain_text("The oak grows slowly")
    expect(page.locator("#passages cite").first).to_contain_text("trees.md, passage")
    page.get_by_role("button", name="Delete trees.md").click()
    expect(page.locator("#texts")).to_have_text("None yet.")


def test_a_file_of_another_kind_is_refused_in_words(visit: Visit) -> None:
    page = visit.open("/coach", user="alice")
    upload(page, "trees.exe", "MZ")
    expect(page.locator("#uploaded")).to_have_class("notice bad")
    expect(page.locator("#uploaded")).not_to_be_empty()
    expect(page.locator("#texts")).to_have_text("None yet.")


def test_what_is_typed_offline_is_asked_later_and_the_address_is_remembered(
    visit: Visit, demo: Demo
) -> None:
    page = visit.open("/coach", user="bob")
    wait_connected(page)
    demo.kill()
    expect(page.locator("#state")).to_have_attribute("data-state", "offline")
    ask(page, "Is anybody there?")
    expect(page.locator("#answers > li.assistant")).to_contain_text("waits for the connection")
    page.get_by_label("Your question").type("half of a ques")
    demo.start()
    page.evaluate("dispatchEvent(new Event('online'))")  # as browsers do; it need not wait
    wait_connected(page)
    expect(page.locator("#answers > li.assistant")).to_contain_text("complete")
    page.reload()
    expect(page.get_by_label("Your question")).to_have_value("half of a ques")

    page.get_by_label("Address, on this server").fill("https://elsewhere.example/ws")
    page.get_by_role("button", name="Connect").click()
    expect(page.get_by_role("alert")).to_contain_text("its own server only")
    page.get_by_label("Address, on this server").fill("/ws")
    page.get_by_role("button", name="Connect").click()
    wait_connected(page)
    page.reload()
    expect(page.get_by_label("Address, on this server")).to_have_value("/ws")
