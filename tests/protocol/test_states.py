"""The tables are whole: nothing that can happen is missing, no error is undocumented."""

from __future__ import annotations

from enum import Enum

import pytest

from protocol.errors import ERRORS, Fatal
from protocol.states import (
    CLIENT_TABLE,
    SERVER_TABLE,
    ClientState,
    ClientTrigger,
    ServerState,
    ServerTrigger,
)

S, T = ServerState, ServerTrigger

# Only the program that runs a connection causes these triggers, and only where they make sense.
CANNOT_HAPPEN = {
    *((state, T.START) for state in set(S) - {S.OPENING}),
    *((state, T.START_VERIFYING) for state in set(S) - {S.OPENING}),
    *((S.OPENING, trigger) for trigger in (T.AUTH, T.MESSAGE)),  # nothing is read before `hello`
    *((state, T.ACCEPT) for state in (S.OPENING, S.WAITING, S.READY, S.CLOSED)),
    *((state, T.REJECT_REFRESH) for state in S if state is not S.REFRESHING),
}  # fmt: skip


def test_the_servers_table_holds_whatever_can_happen_and_nothing_else() -> None:
    assert set(SERVER_TABLE) == {(state, trigger) for state in S for trigger in T} - CANNOT_HAPPEN


def test_the_clients_table_holds_everything() -> None:
    assert set(CLIENT_TABLE) == {
        (state, trigger) for state in ClientState for trigger in ClientTrigger
    }


def test_every_error_in_the_tables_is_a_row_of_the_table_of_errors() -> None:
    outcomes = [*SERVER_TABLE.values(), *CLIENT_TABLE.values()]
    assert {outcome for outcome in outcomes if isinstance(outcome, str)} <= set(ERRORS)


def test_every_illegal_move_of_a_peer_is_answered_with_a_documented_error() -> None:
    illegal = {key: value for key, value in SERVER_TABLE.items() if isinstance(value, str)}
    assert illegal == {
        (S.OPENING, T.DEADLINE): "auth_timeout",
        (S.WAITING, T.MESSAGE): "auth_required",
        (S.WAITING, T.DEADLINE): "auth_timeout",
        (S.VERIFYING, T.DEADLINE): "auth_timeout",
        (S.READY, T.DEADLINE): "token_expired",
        (S.REFRESHING, T.DEADLINE): "token_expired",
        (S.REFRESHING, T.AUTH): "too_many_in_flight",
    }


def test_there_is_one_road_to_ready() -> None:
    into = {
        key for key, value in SERVER_TABLE.items() if value is S.READY and key[0] is not S.READY
    }
    refreshed = {(S.REFRESHING, T.ACCEPT), (S.REFRESHING, T.REJECT_REFRESH)}
    assert into - refreshed == {(S.VERIFYING, T.ACCEPT)}


@pytest.mark.parametrize("table", [SERVER_TABLE, CLIENT_TABLE], ids=["server", "client"])
def test_nothing_leads_out_of_closed(table: dict[tuple[Enum, Enum], object]) -> None:
    for (state, _), outcome in table.items():
        if state.name == "CLOSED":
            assert outcome is state or isinstance(outcome, str)


def test_an_error_that_can_be_fatal_has_a_close_code_and_no_other_has() -> None:
    for row in ERRORS.values():
        assert (row.close_code is None) == (row.fatal is Fatal.NEVER)


def test_private_close_codes_are_in_the_private_range() -> None:
    assert all(
        row.close_code is None or row.close_code < 1016 or 4000 <= row.close_code < 5000
        for row in ERRORS.values()
    )
