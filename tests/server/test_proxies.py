"""Behind a proxy, with real sockets: the PROXY protocol ahead of all else, TLS included."""

from __future__ import annotations

import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from structlog.testing import capture_logs
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from tests.support.app import World, make_application, wall_clock
from tests.support.patience import PATIENCE
from trioserver import Config, ListenConfig, OriginConfig, ProxyConfig, Server, serve

V1 = b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 443\r\n"
V2 = (
    b"\r\n\r\n\0\r\nQUIT\n\x21\x21"
    + struct.pack(">H", 36 + 8)
    + ip_address("2001:db8::1").packed * 2
    + struct.pack(">HH", 5000, 443)
    + b"\x04\x00\x05hello"
)
LOCAL = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00"
TRUSTING = ProxyConfig(trusted=("127.0.0.0/8", "unix"))


@asynccontextmanager
async def real_server(config: Config) -> AsyncIterator[Server]:
    async with trio.open_nursery() as nursery:
        application = make_application(World())
        server = await nursery.start(partial(serve, application, config, clock=wall_clock))
        yield server
        nursery.cancel_scope.cancel()


def open_socket(server: Server) -> socket.socket:
    address = server.addresses[0]
    if address.port is None:
        unix = socket.socket(socket.AF_UNIX)
        unix.connect(address.host)
        return unix
    return socket.create_connection((address.host, address.port), timeout=PATIENCE)


def announce_and_echo(server: Server, header: bytes, tls: ssl.SSLContext | None = None) -> str:
    """Speak through a proxy that begins with ``header``; the address that the server sees."""
    sock = open_socket(server)
    sock.sendall(header)
    uri = f"ws{'s' * (tls is not None)}://localhost/ws/1"
    more: dict[str, Any] = {} if tls is None else {"ssl": tls}
    with connect(uri, sock=sock, **more) as connection:
        connection.recv(timeout=PATIENCE)
        for message in (
            {"type": "auth", "token": "alice"},
            {"type": "echo", "id": 1, "data": {"text": "x" * 100_000}},
        ):
            connection.send(json.dumps(message))
            answer = json.loads(connection.recv(timeout=PATIENCE))
        assert answer["data"] == {"text": "x" * 100_000}
        (connected,) = server.connections
        return connected.request.remote


def begin_and_read(server: Server, begin: bytes) -> bytes:
    """What comes back, up to the end."""
    with open_socket(server) as sock:
        sock.settimeout(5)
        sock.sendall(begin)
        try:
            return sock.recv(1000)
        except ConnectionResetError:
            return b""


@pytest.mark.parametrize(
    ("header", "remote"),
    [(V1, "192.0.2.1:5000"), (V2, "[2001:db8::1]:5000"), (LOCAL, "127.0.0.1:")],
)
async def test_who_is_behind_a_proxy_is_known_by_the_proxy_protocol(
    header: bytes, remote: str
) -> None:
    config = Config(port=0, proxy_protocol=True, proxy=TRUSTING)
    async with real_server(config) as server:
        seen = await trio.to_thread.run_sync(announce_and_echo, server, header)
        assert seen.startswith(remote)


async def test_the_proxy_protocol_goes_before_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    pem = tmp_path / "server.pem"
    certificate.private_key_and_cert_chain_pem.write_to_path(pem)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    config = Config(port=0, certificate=pem, key=pem, proxy_protocol=True, proxy=TRUSTING)
    async with real_server(config) as server:
        for header, remote in ((V1, "192.0.2.1:5000"), (V2, "[2001:db8::1]:5000")):
            seen = await trio.to_thread.run_sync(announce_and_echo, server, header, trusting)
            assert seen == remote


async def test_the_proxy_protocol_on_a_unix_socket(tmp_path: Path) -> None:
    where = ListenConfig(unix_path=tmp_path / "server.sock", proxy_protocol=True)
    async with real_server(Config(listen=(where,), proxy=TRUSTING)) as server:
        assert await trio.to_thread.run_sync(announce_and_echo, server, V1) == "192.0.2.1:5000"


@pytest.mark.parametrize(
    ("begin", "trusted", "reason"),
    [
        (b"GET /ws/1 HTTP/1.1\r\n\r\n", "127.0.0.1", "does not begin with a PROXY header"),
        (b"PROXY TCP4 nonsense\r\n", "127.0.0.1", "the line is not"),
        (V1, "192.0.2.0/24", "not in proxy.trusted"),
    ],
)
async def test_without_a_good_header_of_a_trusted_proxy_it_is_dropped_with_a_line(
    begin: bytes, trusted: str, reason: str
) -> None:
    config = Config(port=0, proxy_protocol=True, proxy=ProxyConfig(trusted=(trusted,)))
    async with real_server(config) as server:
        with capture_logs() as lines:
            read = await trio.to_thread.run_sync(begin_and_read, server, begin)
        assert read == b""
        (line,) = (line for line in lines if line["event"] == "proxy_protocol_failed")
        assert reason in line["reason"]
        assert line["remote"].startswith("127.0.0.1:")
        assert server.statistics().rejected == {"proxy_protocol": 1}


async def test_a_header_on_a_listener_that_expects_none_is_no_request() -> None:
    async with real_server(Config(port=0, proxy=TRUSTING)) as server:
        read = await trio.to_thread.run_sync(begin_and_read, server, V1 + b"\r\n")
        assert read.startswith(b"HTTP/1.1 400 ")


async def test_a_browser_of_another_origin_gets_403() -> None:
    config = Config(port=0, origins=OriginConfig(allow=("https://*.example.org",)))
    async with real_server(config) as server:
        url = server.addresses[0].url + "/ws/1"

        def try_from(origin: str) -> int:
            try:
                with connect(url, origin=Origin(origin)):
                    return 101
            except InvalidStatus as refused:
                return refused.response.status_code

        statuses = [
            await trio.to_thread.run_sync(try_from, origin)
            for origin in ("https://a.example.org", "https://example.org.evil.test")
        ]
        assert statuses == [101, 403]
