"""The conversation: streams, cancelling, a server that is away, and what was typed meanwhile."""

from __future__ import annotations

import re

from playwright.sync_api import Locator, Page, expect

from tests.browser.world import Demo, Visit

NO_JITTER = "Math.random = () => 0.5"


def wait_connected(page: Page) -> None:
    expect(page.locator("#state")).to_have_attribute("data-state", "connected")


def said(page: Page, text: str) -> Locator:
    """What the user has said, and is shown with just these words."""
    return page.locator("#said > li.user > p", has_text=re.compile(f"^{re.escape(text)}$"))


def note(page: Page, text: str) -> None:
    page.get_by_label("Say something").fill(text)
    page.get_by_role("button", name="Only note it").click()


def test_a_question_is_answered_as_a_stream_with_calls_of_tools(visit: Visit) -> None:
    page = visit.open("/conversation?id=alice-1", user="alice")
    wait_connected(page)
    note(page, "I like old trees")
    expect(said(page, "I like old trees").locator("xpath=..")).to_contain_text("stored")
    page.get_by_label("Say something").fill("What about old trees?")
    page.keyboard.press("Enter")
    answer = page.locator("#said > li.assistant")
    expect(answer).to_contain_text("complete")
    expect(answer).to_contain_text(
        "You have come to this before, when you said: “I like old trees”"
    )
    expect(answer).not_to_have_attribute("aria-busy", "true")
    answer.get_by_text("Calls search_history").click()
    expect(answer.locator("pre").first).to_contain_text('"words"')

    page.reload()
    expect(page.locator("#said > li")).to_have_count(3)
    expect(page.locator("#said > li").last).to_contain_text("Now you ask: What about old trees?")


def test_an_answer_is_cancelled_halfway(visit: Visit) -> None:
    page = visit.open("/conversation?id=bob-1", user="bob")
    wait_connected(page)
    page.get_by_label("Say something").fill("and so on " * 400)
    page.get_by_role("button", name="Ask").click()
    answer = page.locator("#said > li.assistant")
    expect(answer).to_contain_text("You have not mentioned that before")
    page.get_by_role("button", name="Cancel the answer").click()
    expect(answer.locator("> .meta")).to_have_text("cancelled")
    text = answer.locator("> p").inner_text()
    assert len(text) < 2000
    expect(page.get_by_role("button", name="Cancel the answer")).to_be_disabled()
    note(page, "enough")  # the connection lives on
    expect(said(page, "enough").locator("xpath=..")).to_contain_text("stored")
    assert answer.locator("> p").inner_text() == text  # nothing came after


def test_another_users_conversation_and_none_look_the_same(visit: Visit) -> None:
    page = visit.open("/conversation?id=bob-1", user="alice")
    for name in ("bob-1", "no-such-one"):
        page.get_by_role("textbox", name="Conversation", exact=True).fill(name)
        page.get_by_role("button", name="Open").click()
        expect(page.get_by_role("alert")).to_have_text("Conversation not found or access denied")
        expect(page.locator("#state")).to_have_attribute("data-state", "error")


def test_what_is_typed_while_the_server_is_away_is_sent_once_when_it_is_back(
    visit: Visit, demo: Demo
) -> None:
    page = visit.open("/conversation?id=alice-2", user="alice", script=NO_JITTER)
    page.evaluate(
        """() => {
            window.seen = [];
            const state = document.getElementById("state");
            const look = ({ state: name, retryMs }) => window.seen.push([name, Number(retryMs)]);
            const observer = new MutationObserver(() => look(state.dataset));
            observer.observe(state, { attributeFilter: ["data-state"] });
        }"""
    )
    wait_connected(page)
    note(page, "before")
    expect(said(page, "before").locator("xpath=..")).to_contain_text("stored")

    demo.kill()
    expect(page.locator("#state")).to_have_attribute("data-state", "offline")
    expect(page.locator("#state")).to_contain_text("Offline")
    note(page, "meanwhile one")
    note(page, "meanwhile two")
    expect(said(page, "meanwhile one").locator("xpath=..")).to_contain_text(
        "waits for the connection"
    )
    expect(page.locator("#state")).to_contain_text("Attempt 3 in")
    demo.start()

    wait_connected(page)
    states = page.evaluate("window.seen")
    pauses = [pause for state, pause in states if state == "offline"]
    assert len(pauses) >= 3
    assert pauses == sorted(set(pauses))  # they grow
    assert [state for state, _ in states if state != "offline"][-3:] == [
        "reconnecting",
        "connecting",
        "connected",
    ]
    expect(said(page, "meanwhile two").locator("xpath=..")).not_to_have_class(re.compile("waiting"))
    page.reload()
    expect(page.locator("#said > li > p")).to_have_text(
        ["before", "meanwhile one", "meanwhile two"]
    )


def test_two_users_share_a_conversation_and_see_who_is_here(visit: Visit, demo: Demo) -> None:
    alice = visit.open("/conversation?id=alice-1", user="alice")
    expect(alice.locator("#here")).to_have_text("alice")
    bob = visit.open("/conversation?id=bob-1", user="bob")
    wait_connected(bob)
    alice.get_by_label("Share this conversation with").fill("bob")
    alice.get_by_role("button", name="Share", exact=True).click()
    expect(bob.locator("#notices")).to_contain_text("alice shares alice-1 with you.")
    bob.get_by_role("link", name="Open it").click()
    expect(bob.locator("#here")).to_have_text("alice, bob")
    expect(alice.locator("#here")).to_have_text("alice, bob")
    note(bob, "good morning")
    said_by_bob = alice.locator("#said > li.other")
    expect(said_by_bob).to_contain_text("good morning")
    expect(said_by_bob).to_contain_text("bob, ")
    alice.get_by_role("button", name="Stop sharing").click()
    expect(bob.get_by_role("alert")).to_contain_text("Conversation not found or access denied")
    expect(alice.locator("#here")).to_have_text("alice")
