"""The authenticator that trusts: whom it believes, and where it may serve."""

from __future__ import annotations

import pytest
import trio
from structlog.testing import capture_logs

from protocol import Refusal
from trioserver.auth import Credentials, TrustedUserId
from trioserver.websocket.request import Request

AUTH = TrustedUserId(dangerously_trust_every_client=True)
REQUEST = Request(path="/")


@pytest.mark.parametrize(
    ("given", "user_id"),
    [("alice", "alice"), (7, "7"), (0, "0"), (-1, "-1"), ("José 😀", "José 😀")],
)
async def test_who_says_a_name_is_that_user(given: object, user_id: str) -> None:
    user = await AUTH(Credentials(source="message", fields={"user_id": given}), REQUEST)
    assert (user.id, user.expires_at) == (user_id, None)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"user_id": ""},
        {"user_id": None},
        {"user_id": True},
        {"user_id": 1.5},
        {"user_id": []},
        {"user_id": {"id": "alice"}},
        {"user_id": "\ud800"},
        {"user_id": "a\0b"},
        {"user_id": 2**63},
        {"user_id": 10**5000},
    ],
)
async def test_who_says_none_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(Refusal) as caught:
        await AUTH(Credentials(source="message", fields=fields), REQUEST)
    assert (caught.value.code, caught.value.message) == ("token_missing", "user_id required")


def test_nobody_gets_it_without_saying_that_it_is_dangerous() -> None:
    with pytest.raises(TypeError):
        TrustedUserId()  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="dangerously_trust_every_client=True"):
        TrustedUserId(dangerously_trust_every_client=False)  # type: ignore[arg-type]


def test_loopback_addresses_and_unix_sockets_are_served() -> None:
    AUTH.check_addresses([])
    AUTH.check_addresses(
        [
            "127.0.0.1:8765",
            "127.8.9.10:1",
            "[::1]:8765",
            "localhost:80",
            "/run/chat.sock",
            "unix:/run/chat.sock",
        ]
    )


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0:8765",
        "[::]:8765",
        ":8765",
        "",
        "*:8765",
        "192.168.1.5:80",
        "128.0.0.1:80",
        "[2001:db8::1]:80",
        "localhost.example.com:80",
        "127.0.0.1.example.com:80",
        "example.com/unix:/x",
    ],
)
def test_any_other_address_stops_the_start(address: str) -> None:
    with pytest.raises(ValueError, match="so it cannot serve"):
        AUTH.check_addresses(["127.0.0.1:8765", address])


async def test_it_warns_once_as_the_server_starts(nursery: trio.Nursery) -> None:
    with capture_logs() as logs:
        await nursery.start(AUTH.run)
    assert [line["log_level"] for line in logs] == ["warning"]
    assert (logs[0]["event"], logs[0]["log_level"]) == ("user_ids_not_verified", "warning")
