"""Logging in, being sent back to it with a reason, and the tester."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.world import PASSWORD, Demo, Visit
from tests.support.next_paths import ELSEWHERE, OURS
from trioserver.auth import make_secret, make_token


def log_in(page: Page, user: str, password: str) -> None:
    """With the keyboard alone; the name has the focus from the start."""
    expect(page.get_by_label("Name")).to_be_focused()
    page.keyboard.type(user)
    page.keyboard.press("Tab")
    page.keyboard.type(password)
    page.keyboard.press("Enter")


def test_whoever_logs_in_comes_to_the_page_asked_for_and_is_ready(visit: Visit) -> None:
    page = visit.open("/conversation?id=alice-2")
    expect(page).to_have_url(re.compile("/login"))
    expect(page.get_by_role("alert")).to_have_text("Log in to see that page.")
    log_in(page, "alice", PASSWORD)
    expect(page).to_have_url(re.compile(r"/conversation\?id=alice-2$"))
    expect(page.locator("#state")).to_have_attribute("data-state", "connected")
    expect(page.locator("#who")).to_contain_text("alice")
    page.get_by_role("button", name="Log out").click()
    expect(page).to_have_url(re.compile("/login$"))
    assert page.evaluate("sessionStorage.length") == 0


def test_the_login_leads_nowhere_but_to_a_path_of_this_server(visit: Visit) -> None:
    """What the page itself decides, and that it stays where the server sends it."""
    page = visit.open("/login")
    script = """async paths => {
        const { wherePathLeads } = await import("/static/session.js");
        return paths.map(wherePathLeads);
    }"""
    ours = [visit.demo.url + path for path in OURS]
    assert page.evaluate(script, OURS) == ours
    assert page.evaluate(script, ELSEWHERE) == ["/"] * len(ELSEWHERE)
    assert page.evaluate(script, ["/login", "/login?next=/login"]) == ["/", "/"]
    page = visit.open("/login?next=/.//evil.example/")
    log_in(page, "bob", PASSWORD)
    expect(page).to_have_url(visit.demo.url + "/")
    assert not [url for url in visit.urls if not url.startswith(visit.demo.url)]


@pytest.mark.parametrize("user", ["alice", "nobody"])
def test_a_wrong_password_is_told_without_a_hint(user: str, visit: Visit) -> None:
    page = visit.open("/login")
    log_in(page, user, "wrong")
    expect(page.get_by_role("alert")).to_have_text("The name or the password is wrong.")
    expect(page.get_by_label("Password")).to_be_focused()
    expect(page.get_by_label("Password")).to_have_value("")


def test_an_expired_or_forged_token_leads_to_the_login_page_with_the_reason(
    visit: Visit, demo: Demo
) -> None:
    expired = make_token(demo.secret, subject="alice", lifetime=-3600.0, audience="conversations")
    forged = make_token(make_secret(), subject="alice")
    for token, words in {
        forged: "Your login was not accepted: the token is not valid here.",
        expired: "Your login has expired. Log in again to go on.",
    }.items():
        page = visit.open("/conversation?id=alice-1", token=token)
        expect(page.get_by_role("alert")).to_contain_text(words)
    log_in(page, "alice", PASSWORD)
    expect(page).to_have_url(re.compile("/conversation"))
    expect(page.locator("#state")).to_have_attribute("data-state", "connected")


def test_no_script_that_stands_in_a_page_runs(visit: Visit) -> None:
    page = visit.open("/")
    forbidden = page.evaluate(
        """() => new Promise((resolve) => {
            const tell = (event) => resolve(event.effectiveDirective);
            document.addEventListener("securitypolicyviolation", tell);
            const script = document.createElement("script");
            script.append("document.title = 'it ran'");
            document.body.append(script);
        })"""
    )
    assert forbidden in ("script-src-elem", "require-trusted-types-for")
    assert page.title() == "Systems · trioserver"


def test_the_tester_shows_each_message_of_both_directions(visit: Visit, demo: Demo) -> None:
    page = visit.open("/tester")
    token = demo.token("alice")
    page.get_by_label("Token").fill(token)
    page.get_by_label("Route").fill("/ws")
    page.get_by_role("button", name="Connect", exact=True).click()
    expect(page.get_by_text("Ready, as alice")).to_be_visible()
    example = page.get_by_label("Example of a message")
    example.select_option(json.dumps({"type": "list_agents", "id": 1}, separators=(",", ":")))
    page.get_by_role("button", name="Send").click()
    lines = page.locator("#log li")
    expect(lines).to_contain_text(
        [
            "connecting to ws://",
            '"auth","token":"•••"',
            '"hello"',
            '"ready"',
            '"list_agents"',
            "ack",
        ]
    )
    sent = page.locator("#log li[data-direction=out]")
    expect(sent).to_have_count(2)
    times = page.locator("#log time").all_inner_texts()
    assert all(re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3}", time) for time in times)
    page.get_by_role("button", name="Disconnect").click()
    expect(lines.last).to_contain_text("closed with 1000")

    page.reload()
    expect(page.get_by_label("Token")).to_have_value(token)  # kept for this page
    page.get_by_role("button", name="Forget it").click()
    assert page.evaluate("localStorage.getItem('trioserver.tester.token')") is None


def test_the_tester_says_close_codes_in_words(visit: Visit) -> None:
    page = visit.open("/tester")
    page.get_by_label("Token").fill("not-a-token")
    page.get_by_label("Route").fill("/ws/conversations/alice-1")
    page.get_by_role("button", name="Connect", exact=True).click()
    expect(page.locator("#log li").last).to_contain_text(
        "closed with 1008 token_invalid: token_invalid: The token is not valid."
    )
    page.get_by_label("Route").fill("/nowhere")
    page.get_by_role("button", name="Connect", exact=True).click()
    expect(page.locator("#status")).to_contain_text("No connection: the server is away")
    page.get_by_label("Route").fill("/ws?token=secret")
    page.get_by_role("button", name="Connect", exact=True).click()
    expect(page.locator("#fault")).to_contain_text("without a query")
