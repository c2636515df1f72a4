"""Names that a server is known by: DNS rebinding, configured hosts, what is for this machine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import pytest
import trio.testing
from structlog.testing import capture_logs

from tests.support.app import World, make_application, wall_clock
from tests.support.http import Http
from trioserver import Config, HttpConfig, ListenConfig, OriginConfig, ProxyConfig, Server, serve
from trioserver.peers.hosts import HostPolicy, is_loopback_name, requested_host

HERE = "127.0.0.1:5000"
THERE = "203.0.113.5:5000"
PRIVATE = ("/metrics", "/api/v1/admin/statistics")


@attrs.frozen
class Place:
    """A server, to which anybody connects from anywhere, in memory."""

    server: Server
    nursery: trio.Nursery

    def connect(self, remote: str) -> trio.abc.Stream:
        ours, theirs = trio.testing.memory_stream_pair()
        self.nursery.start_soon(partial(self.server.serve_stream, theirs, remote=remote))
        return ours

    async def get(self, path: str, remote: str, **headers: str) -> int:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return (await Http(self.connect(remote)).request("GET", path, headers=sent)).status

    async def open(self, remote: str, host: str, origin: str | None) -> int:
        """The status of a handshake."""
        stream = self.connect(remote)
        lines = [
            "GET /ws/1 HTTP/1.1",
            f"Host: {host}",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==",
            *([] if origin is None else [f"Origin: {origin}"]),
        ]
        await stream.send_all("\r\n".join([*lines, "", ""]).encode())
        answer = b""
        while b"\r\n" not in answer:
            answer += await stream.receive_some(1000)
        await trio.aclose_forcefully(stream)
        return int(answer.split(b" ")[1])


@asynccontextmanager
async def running(**tables: Any) -> AsyncIterator[Place]:
    async with trio.open_nursery() as nursery:
        app, config = make_application(World()), Config(port=0, **tables)

        async def run(*, task_status: Any) -> None:
            await serve(app, config, clock=wall_clock, task_status=task_status)

        yield Place(await nursery.start(run), nursery)
        nursery.cancel_scope.cancel()


# ------------------------------------------------------------------------------ names


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST",
        "localhost.",
        "a.localhost",
        "127.0.0.1",
        "127.9.9.9",
        "[::1]",
    ],
)
def test_names_that_no_resolver_is_asked_for_are_this_machine(host: str) -> None:
    assert is_loopback_name(host)


@pytest.mark.parametrize(
    "host",
    ["", "evil.test", "localhost.evil.test", "evil-localhost", "127.0.0.1.evil.test", "0.0.0.0"],
)
def test_any_other_name_may_resolve_to_anything(host: str) -> None:
    assert not is_loopback_name(host)


@pytest.mark.parametrize(
    ("lines", "host"),
    [
        (("Chat.Example.ORG:8443",), "chat.example.org"),
        (("chat.example.org.",), "chat.example.org"),
        (("[0:0::1]:80",), "[::1]"),
        ((), None),
        (("a", "b"), None),
        (("a/b",), None),
        (("x" * 10_000,), None),
    ],
)
def test_the_host_that_is_asked_for(lines: tuple[str, ...], host: str | None) -> None:
    assert requested_host(lines) == host


def test_a_list_has_names_what_is_below_them_addresses_and_this_machine() -> None:
    policy = HostPolicy(["chat.example.org", "*.example.net", "192.0.2.1", "[2001:DB8::1]"])
    for host in ("chat.example.org", "a.example.net", "a.b.example.net", "192.0.2.1"):
        assert policy.allows(host)
    assert policy.allows(requested_host(["[2001:db8:0::1]:443"]))
    for other in ("example.org", "example.net", "xexample.net", "localhost", None):
        assert not policy.allows(other)
    assert HostPolicy(["loopback"]).allows("localhost")
    assert HostPolicy([]).allows(None)


@pytest.mark.parametrize("entry", ["https://a.test", "a.test:80", "a.test/", "*", ""])
def test_what_is_no_host_is_said_at_once(entry: str) -> None:
    with pytest.raises(ValueError, match=r"hosts: .* is not a host"):
        OriginConfig(hosts=(entry,))


# ------------------------------------------------------------------------------ rebinding


async def test_over_loopback_only_loopback_names_are_the_same_host() -> None:
    async with running() as place:
        for host in ("localhost:8765", "127.0.0.1:8765", "[::1]:8765"):
            assert await place.open(HERE, host, f"http://{host}") == 101
        with capture_logs() as lines:
            assert await place.open(HERE, "evil.test:8765", "http://evil.test:8765") == 403
        assert "proxy.trusted" in lines[0]["hint"]
        assert await place.open(HERE, "evil.test:8765", None) == 101, "no page"
        assert await place.open(THERE, "chat.test:8765", "http://chat.test:8765") == 101


async def test_a_name_that_was_configured_and_a_trusted_proxys_are_the_same_host() -> None:
    async with running(origins=OriginConfig(hosts=("chat.test",))) as place:
        assert await place.open(HERE, "chat.test", "http://chat.test") == 101
    async with running(proxy=ProxyConfig(trusted=("127.0.0.1",))) as place:
        assert await place.open(HERE, "chat.test", "https://chat.test") == 101


async def test_what_asks_for_another_than_the_configured_hosts_is_refused_on_both_sides() -> None:
    async with running(origins=OriginConfig(hosts=("chat.test",))) as place:
        assert await place.open(THERE, "chat.test", None) == 101
        assert await place.open(THERE, "evil.test", None) == 421
        assert await place.get("/protocol", THERE, Host="chat.test:80") == 200
        assert await place.get("/protocol", THERE, Host="evil.test") == 421
        assert await place.get("/healthz", THERE, Host="10.0.0.7") == 200
        assert place.server.statistics().rejected == {"host": 2}


# ------------------------------------------------------------------------------ this machine's own


@pytest.mark.parametrize("path", PRIVATE)
async def test_what_tells_of_others_is_for_this_machine_only(path: str) -> None:
    async with running() as place:
        there = 401 if "admin" in path else 200
        assert await place.get(path, HERE) == there
        assert await place.get(path, "unix") == there
        assert await place.get(path, THERE) == 404
        assert await place.get(path, "192.168.1.7:80") == 404
        assert await place.get(path, HERE, Host="evil.test:8765") == 404, "DNS rebinding"
        for header in ("Forwarded", "Via", "X_Real_IP", "X_Forwarded_For", "X_Forwarded_Proto"):
            assert await place.get(path, HERE, **{header: "x"}) == 404, "a proxy"
        assert await place.get("/healthz", THERE) == 200


@pytest.mark.parametrize("path", PRIVATE)
@pytest.mark.parametrize(
    "head",
    [
        "HTTP/1.0\r\nHost: 127.0.0.1:8765\r\nConnection: close",
        "HTTP/1.1\r\nHost: 127.0.0.1:8765\r\nConnection: upgrade",
    ],
)
async def test_nginx_with_little_configuration_is_no_program_of_this_machine(
    path: str, head: str
) -> None:
    async with running() as place:
        stream = place.connect(HERE)
        await stream.send_all(f"GET {path} {head}\r\n\r\n".encode())
        assert b" 404 " in await stream.receive_some(64)
        await trio.aclose_forcefully(stream)


@pytest.mark.parametrize("path", PRIVATE)
async def test_a_trusted_proxy_on_this_machine_does_not_open_it_to_the_world(path: str) -> None:
    async with running(proxy=ProxyConfig(trusted=("127.0.0.1", "unix"))) as place:
        assert await place.get(path, HERE, X_Forwarded_For="203.0.113.9") == 404
        assert await place.get(path, HERE) == 404, "a proxy that does not say"
        assert await place.get(path, HERE, X_Forwarded_For="127.0.0.1") in (200, 401)


@pytest.mark.parametrize("path", PRIVATE)
async def test_it_is_for_everybody_where_that_was_asked_for_and_for_nobody_where_it_is_off(
    path: str,
) -> None:
    async with running(http=HttpConfig(metrics=True, admin=True)) as place:
        assert await place.get(path, THERE) in (200, 401)
    async with running(http=HttpConfig(metrics=False, admin=False)) as place:
        assert await place.get(path, HERE) == 404


async def test_on_a_listener_of_its_own_it_is_for_whoever_reaches_that() -> None:
    listen = ListenConfig(port=0)
    async with running(http=HttpConfig(builtin_listen=listen)) as place:
        assert await place.get("/metrics", HERE) == 404
        address = place.server.builtin_addresses[0]
        stream = await trio.open_tcp_stream("127.0.0.1", address.port or 0)
        async with stream:
            answer = await Http(stream).request("GET", "/metrics", headers={"Host": "node7:9100"})
        assert answer.status == 200
