"""The dashboard: live figures, attempts, broadcasts, and what its buttons do to others' tabs."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.world import Demo, Visit
from trioserver.auth import make_token

DASHBOARDS = 20


def wait_connected(page: Page) -> None:
    expect(page.locator("#state")).to_have_attribute("data-state", "connected")


@pytest.fixture
def dashboard(visit: Visit) -> Page:
    page = visit.open("/dashboard", user="admin")
    wait_connected(page)
    return page


def figure(page: Page, label: str) -> Locator:
    return page.locator("#figures > div", has_text=label).locator("dd")


def connection_of(page: Page, user: str) -> Locator:
    return page.locator("#connections tr", has_text=user)


def test_figures_and_charts_are_live(dashboard: Page, visit: Visit) -> None:
    expect(figure(dashboard, "Ready")).to_have_text("1")
    page = visit.open("/conversation", user="alice")
    wait_connected(page)
    expect(figure(dashboard, "Ready")).to_have_text("2")
    chart = dashboard.get_by_role("img", name="Ready connections: 2 now, highest 2")
    expect(chart).to_be_visible()
    expect(chart.locator("polyline")).to_have_attribute("points", re.compile(r"\d+\.\d,\d+\.\d "))
    expect(connection_of(dashboard, "alice")).to_contain_text("/ws/conversations/alice-1")
    expect(connection_of(dashboard, "admin")).to_contain_text("this page")
    expect(dashboard.locator("#here")).to_contain_text("admin, since")
    page.close()
    expect(connection_of(dashboard, "alice")).to_have_count(0)


def test_attempts_come_with_reasons_and_without_tokens(
    dashboard: Page, visit: Visit, demo: Demo
) -> None:
    expect(dashboard.locator("#attempts tr").first).to_contain_text("accepted")
    expired = make_token(demo.secret, subject="bob", lifetime=-3600.0, audience="conversations")
    visit.open("/conversation?id=bob-1", token=expired)
    refused = dashboard.locator("#attempts tr", has_text="refused: token_expired")
    expect(refused).to_contain_text("/ws/conversations/{conversation_id}")
    assert expired not in dashboard.content()


def test_who_is_no_administrator_is_sent_to_log_in_with_the_reason(visit: Visit) -> None:
    page = visit.open("/dashboard", user="alice")
    expect(page).to_have_url(re.compile("/login"))
    expect(page.get_by_role("alert")).to_contain_text("That page is for administrators.")


def test_the_disconnect_button_ends_the_other_tab_with_the_reason(
    dashboard: Page, visit: Visit
) -> None:
    other = visit.open("/conversation?id=alice-2", user="alice")
    wait_connected(other)
    button = dashboard.get_by_role("button", name="Disconnect: alice, /ws/conversations/alice-2")
    button.focus()
    dashboard.keyboard.press("Enter")
    expect(other.locator("#state")).to_have_attribute("data-state", "error")
    expect(other.locator("#state")).to_contain_text("Disconnected by an administrator.")
    expect(dashboard.locator("#done")).to_have_text("Disconnected: alice.")
    expect(connection_of(dashboard, "alice")).to_have_count(0)


def test_a_blocked_user_is_sent_to_log_in_and_let_in_again_when_unblocked(
    dashboard: Page, visit: Visit
) -> None:
    other = visit.open("/coach", user="bob")
    wait_connected(other)
    dashboard.get_by_role("button", name="Block user: bob").click()
    expect(other).to_have_url(re.compile("/login"))
    expect(other.get_by_role("alert")).to_contain_text("Access is blocked for you.")
    dashboard.get_by_role("button", name="Unblock: bob").click()
    expect(dashboard.locator("#done")).to_have_text("Not blocked any more: bob.")
    other.close()
    wait_connected(visit.open("/coach", user="bob"))


def test_twenty_dashboards_get_a_broadcast(dashboard: Page, visit: Visit) -> None:
    # A window that is opened from a page has a copy of its session.
    dashboard.evaluate(
        "count => { for (let n = 0; n < count; n++) open('/dashboard', '_blank') }", DASHBOARDS - 1
    )
    expect(dashboard.locator("#here")).to_contain_text(f"admin ({DASHBOARDS} pages)")
    pages = visit.context.pages
    assert len(pages) == DASHBOARDS
    for page in pages:
        wait_connected(page)
    dashboard.get_by_role("textbox", name="Message").fill("Back in five minutes")
    dashboard.get_by_role("button", name="Broadcast").click()
    for page in pages:
        expect(page.locator("#broadcasts")).to_contain_text("admin: Back in five minutes")
        expect(page.locator("#broadcasts > li")).to_have_count(1)
