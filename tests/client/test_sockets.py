"""The client over real sockets, with TLS and without: a few ends that memory does not have."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from tests.support.app import World, make_application, wall_clock
from trioserver import Config, Server, serve
from trioserver.client import ConnectionLostError, WebSocketURL, connect


@asynccontextmanager
async def listening(config: Config) -> AsyncIterator[Server]:
    async with trio.open_nursery() as nursery:
        yield await nursery.start(
            partial(serve, make_application(World()), config, clock=wall_clock)
        )
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def listening_with_tls(path: Path, name: str) -> AsyncIterator[tuple[str, ssl.SSLContext]]:
    authority, pem, key = trustme.CA(), path / "certificate.pem", path / "key.pem"
    certificate = authority.issue_cert(name)
    certificate.private_key_pem.write_to_path(str(key))
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(str(pem), append=True)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with listening(Config(port=0, certificate=pem, key=key)) as server:
        yield f"wss://localhost:{server.addresses[0].port}/ws/1", trusting


async def test_it_talks_over_tcp() -> None:
    async with (
        listening(Config(port=0)) as server,
        connect(f"{server.addresses[0].url}/ws/1", token="alice") as client,
    ):
        assert await client.request("echo", {"text": "a"}) == {"text": "a"}
        assert await client.ping() < 5


async def test_it_talks_over_tls(tmp_path: Path) -> None:
    async with (
        listening_with_tls(tmp_path, "localhost") as (url, trusting),
        connect(url, token="alice", ssl_context=trusting) as client,
    ):
        assert await client.request("echo", {"text": "a"}) == {"text": "a"}


async def test_a_certificate_that_is_not_trusted_is_the_end(tmp_path: Path) -> None:
    async with listening_with_tls(tmp_path, "localhost") as (url, _):
        with pytest.raises(ConnectionLostError, match="certificate_invalid"):
            async with connect(url, token="alice"):
                pytest.fail("entered")


async def test_a_certificate_for_another_name_is_the_end(tmp_path: Path) -> None:
    async with listening_with_tls(tmp_path, "example.org") as (url, trusting):
        with pytest.raises(ConnectionLostError, match="certificate_invalid"):
            async with connect(url, token="alice", ssl_context=trusting):
                pytest.fail("entered")


async def test_a_port_where_nobody_listens_is_tried_again(unused_port: int) -> None:
    with pytest.raises(ConnectionLostError, match="Cannot connect"):
        async with connect(f"ws://127.0.0.1:{unused_port}/", max_attempts=1):
            pytest.fail("entered")


@pytest.fixture
async def unused_port() -> int:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port: int = listener.socket.getsockname()[1]
    await listener.aclose()
    return port


async def test_a_unix_socket_is_another_way_to_open_a_stream(tmp_path: Path) -> None:
    path = tmp_path / "socket"

    async def open_stream(address: WebSocketURL) -> Any:
        return await trio.open_unix_socket(path)

    async with (
        listening(Config(unix_path=path)),
        connect("ws://any/ws/1", token="alice", open_stream=open_stream) as client,
    ):
        assert await client.request("echo", {"text": "a"}) == {"text": "a"}
