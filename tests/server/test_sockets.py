"""Where sockets matter: TCP, TLS, Unix sockets, signals, and another library as the client."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect, unix_connect

from tests.support.app import World, make_application, wall_clock
from tests.support.patience import PATIENCE
from trioserver import (
    Config,
    LimitsConfig,
    ListenConfig,
    ListenError,
    Server,
    ShutdownConfig,
    serve,
)


async def start(
    config: Config, *, task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve the test application, whose tokens end by its own clock."""
    application = make_application(World())
    await serve(application, config, clock=wall_clock, task_status=task_status)


@asynccontextmanager
async def real_server(config: Config) -> AsyncIterator[Server]:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(start, config)
        yield server
        nursery.cancel_scope.cancel()


def converse(connection: ClientConnection) -> list[Any]:
    """Authenticate, ask, close; what was received."""
    received = [json.loads(connection.recv(timeout=PATIENCE))]
    for message in (
        {"type": "auth", "token": "alice"},
        {"type": "echo", "id": 1, "data": {"text": "x" * 100_000}},
    ):
        connection.send(json.dumps(message))
        received.append(json.loads(connection.recv(timeout=PATIENCE)))
    assert connection.ping().wait(PATIENCE)
    connection.close()
    return received


def check(received: list[Any]) -> None:
    assert [message["type"] for message in received] == ["hello", "ready", "ack"]
    assert received[2]["data"] == {"text": "x" * 100_000}


async def test_tcp() -> None:
    async with real_server(Config(port=0)) as server:
        (address,) = server.addresses
        assert address.url == f"ws://127.0.0.1:{address.port}"

        def talk() -> list[Any]:
            with connect(address.url + "/ws/1", subprotocols=["other", "trioserver.v1"]) as c:  # type: ignore[list-item]
                assert c.subprotocol == "trioserver.v1"
                return converse(c)

        check(await trio.to_thread.run_sync(talk))


async def test_several_listeners_tls_and_a_unix_socket_among_them(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    certificate.private_key_pem.write_to_path(key)
    for pem in certificate.cert_chain_pems:
        pem.write_to_path(chain, append=True)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    socket_path = tmp_path / "server.sock"
    config = Config(
        listen=(
            ListenConfig(port=0),
            ListenConfig(port=0, certificate=chain, key=key),
            ListenConfig(unix_path=socket_path),
        )
    )
    async with real_server(config) as server:
        plain, secure, unix = server.addresses
        assert secure.url.startswith("wss://")
        assert str(unix) == f"unix:{socket_path}"

        def talk_plain() -> list[Any]:
            with connect(plain.url + "/ws/1") as connection:
                return converse(connection)

        def talk_secure() -> list[Any]:
            with connect(secure.url + "/ws/1", ssl=trusting) as connection:
                return converse(connection)

        def talk_unix() -> list[Any]:
            with unix_connect(str(socket_path), "ws://localhost/ws/1") as connection:
                return converse(connection)

        for talk in (talk_plain, talk_secure, talk_unix):
            check(await trio.to_thread.run_sync(talk))
    assert not socket_path.exists()


async def test_an_address_that_is_taken_is_said_in_a_sentence() -> None:
    async with real_server(Config(port=0)) as server:
        config = Config(port=server.addresses[0].port or 0)
        with trio.fail_after(PATIENCE), pytest.raises(ListenError, match="Address already in use"):
            await start(config)


async def test_drain_closes_real_clients_and_serve_returns() -> None:
    config = Config(port=0, shutdown=ShutdownConfig(drain_period=0.2))
    async with trio.open_nursery() as nursery:
        server = await nursery.start(start, config)
        url = server.addresses[0].url + "/ws/1"
        ready = trio.Event()
        token = trio.lowlevel.current_trio_token()

        def talk() -> tuple[list[str], int, str]:
            with connect(url) as connection:
                connection.send(json.dumps({"type": "auth", "token": "alice"}))
                types = [json.loads(connection.recv(timeout=PATIENCE))["type"] for _ in range(2)]
                token.run_sync_soon(ready.set)
                types += [json.loads(text)["type"] for text in connection]
                with pytest.raises(ConnectionClosed) as closed:
                    connection.recv(timeout=PATIENCE)
                frame = closed.value.rcvd
                assert frame is not None
                return types, frame.code, frame.reason

        async def drain() -> None:
            await ready.wait()
            await server.drain()

        nursery.start_soon(drain)
        types, code, reason = await trio.to_thread.run_sync(talk)
        assert types == ["hello", "ready", "goaway", "error"]
        assert (code, reason) == (1001, "shutdown")


async def test_a_peer_that_resets_the_connection_is_only_a_peer_that_left() -> None:
    async with real_server(Config(port=0)) as server:
        host, port = server.addresses[0].host, server.addresses[0].port
        assert port is not None
        for text in (b"", b"GET /ws/1 HT", b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"):
            stream = await trio.open_tcp_stream(host, port)
            if text:
                await stream.send_all(text)
            linger = b"\x01\x00\x00\x00" + bytes(4)  # on, no time: close with a reset
            stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, linger)
            await stream.aclose()
        with trio.fail_after(PATIENCE):
            while server.statistics().open:  # noqa: ASYNC110 -- the kernel says when
                await trio.sleep(0.01)
        assert server.statistics().rejected == {}


async def test_a_hundred_clients_at_once() -> None:
    config = Config(port=0, limits=LimitsConfig(max_unauthenticated=1000))
    async with real_server(config) as server:
        url = server.addresses[0].url + "/ws/1"
        limiter = trio.CapacityLimiter(20)

        def talk() -> None:
            with connect(url) as connection:
                check(converse(connection))

        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(partial(trio.to_thread.run_sync, talk, limiter=limiter))
        assert server.statistics().accepted == 100
        assert server.statistics().rejected == {}
