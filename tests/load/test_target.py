"""Only this machine is loaded, unless its user says that the other is theirs."""

from __future__ import annotations

import socket

import pytest
import trio

from trioserver.client import WebSocketURL
from trioserver.load.target import TargetError, choose_target, is_loopback


class Names(trio.abc.HostnameResolver):
    """A name server that says what a test wants."""

    def __init__(self, *hosts: str) -> None:
        self._hosts = hosts

    async def getaddrinfo(self, host, port, family=0, type=0, proto=0, flags=0):  # type: ignore[no-untyped-def]
        return [
            (socket.AF_INET6 if ":" in at else socket.AF_INET, type, proto, "", (at, port))
            for at in self._hosts
        ]

    async def getnameinfo(self, sockaddr, flags):  # type: ignore[no-untyped-def]
        raise NotImplementedError


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1", True),
        ("127.200.0.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:192.0.2.1", False),
        ("192.0.2.1", False),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("fe80::1%lo", False),
        ("2001:db8::1", False),
    ],
)
def test_loopback_is_this_machine_and_nothing_else_is(host: str, own: bool) -> None:
    assert is_loopback(host) is own


async def test_a_name_with_one_address_elsewhere_is_refused_in_a_sentence() -> None:
    trio.socket.set_custom_hostname_resolver(Names("127.0.0.1", "192.0.2.7"))
    with pytest.raises(TargetError) as refused:
        await choose_target(WebSocketURL.parse("ws://half.example:9/ws"), mine=False)
    assert "192.0.2.7" in str(refused.value)
    assert "--i-own-this-host" in str(refused.value)


async def test_of_the_addresses_of_a_host_the_first_that_accepts_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        trio.socket.set_custom_hostname_resolver(Names("127.99.0.1", "127.0.0.1"))
        place = await choose_target(WebSocketURL.parse(f"ws://two.example:{port}/"), mine=False)
    assert place == (socket.AF_INET, ("127.0.0.1", port))


async def test_whoever_owns_a_host_may_load_it() -> None:
    trio.socket.set_custom_hostname_resolver(Names("127.0.0.1"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        address = WebSocketURL.parse(f"ws://mine.example:{port}/")
        assert await choose_target(address, mine=True) == (socket.AF_INET, ("127.0.0.1", port))


async def test_where_nobody_listens_that_is_said_before_anything_starts() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen
        port = bound.getsockname()[1]
        with pytest.raises(TargetError, match="refused"):
            await choose_target(WebSocketURL.parse(f"ws://127.0.0.1:{port}/"), mine=False)


async def test_a_name_that_is_nobodys_is_refused() -> None:
    trio.socket.set_custom_hostname_resolver(Names())
    with pytest.raises(TargetError, match=r"cannot look up nobody\.invalid"):
        await choose_target(WebSocketURL.parse("ws://nobody.invalid/"), mine=True)
