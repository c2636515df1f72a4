"""Listening sockets, all of them real."""

from __future__ import annotations

import socket as stdlib_socket
import ssl
import stat
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
import trustme
from cryptography.hazmat.primitives import serialization

from tests.websocket.peer import Notes, Peer, close, text
from trioserver.websocket import listeners as module
from trioserver.websocket.accepting import Listener
from trioserver.websocket.errors import ListenError
from trioserver.websocket.handshake import ClientDisconnected, read_head
from trioserver.websocket.listeners import (
    ListenAddress,
    SocketFile,
    address_of,
    open_tcp,
    open_unix,
    remote_of,
)
from trioserver.websocket.tls import TLSFiles, tls_context
from trioserver.websocket.websocket import WebSocket


@asynccontextmanager
async def closing(listeners: list[Listener]) -> AsyncIterator[list[Listener]]:
    try:
        yield listeners
    finally:
        for listener in listeners:
            await module.close(listener)


def can_listen_on(host: str) -> bool:
    try:
        with stdlib_socket.create_server((host, 0), family=stdlib_socket.AF_INET6):
            return True
    except OSError:
        return False


ipv6 = pytest.mark.skipif(not can_listen_on("::1"), reason="needs an IPv6 loopback address")


def pem_files(folder: Path, *names: str) -> tuple[trustme.CA, Path, Path]:
    """Who vouches for them, and a certificate and a key for these names."""
    authority = trustme.CA()
    leaf = authority.issue_cert(*names)
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    leaf.cert_chain_pems[0].write_to_path(str(certificate))
    leaf.private_key_pem.write_to_path(str(key))
    return authority, certificate, key


# ------------------------------------------------------------------------------ TCP


async def test_port_0_picks_a_free_port_and_the_address_says_which() -> None:
    async with closing(await open_tcp("127.0.0.1", 0, None)) as (listener,):
        address = address_of(listener)
        assert address.host == "127.0.0.1"
        assert address.port is not None
        assert str(address) == f"127.0.0.1:{address.port}"
        assert address.url == f"ws://127.0.0.1:{address.port}"
        client = await trio.open_tcp_stream("127.0.0.1", address.port)
        server = await listener.accept()
        host, port = client.socket.getsockname()
        assert remote_of(server) == f"{host}:{port}"
        await server.aclose()
        await client.aclose()


@ipv6
async def test_ipv6_addresses_are_written_in_brackets() -> None:
    async with closing(await open_tcp("::1", 0, None)) as (listener,):
        address = address_of(listener)
        assert address.url == f"ws://[::1]:{address.port}"
        assert address.port is not None
        async with await trio.open_tcp_stream("::1", address.port):
            server = await listener.accept()
            assert remote_of(server).startswith("[::1]:")
            await server.aclose()


@ipv6
@pytest.mark.parametrize("reuse_port", [False, True])
async def test_all_addresses_of_this_machine_are_those_of_ipv4_too(reuse_port: bool) -> None:
    async with closing(await open_tcp("::", 0, None, reuse_port=reuse_port)) as opened:
        (port,) = {address_of(listener).port for listener in opened}
        assert port is not None
        for host in ("127.0.0.1", "::1"):
            async with await trio.open_tcp_stream(host, port):
                pass


class TwoAddresses(trio.abc.HostnameResolver):
    """A name with two addresses, as localhost has on many machines, and a name with none."""

    async def getaddrinfo(  # type: ignore[override]
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        if host != b"both.example":
            raise stdlib_socket.gaierror(stdlib_socket.EAI_NONAME, "Name or service not known")
        assert isinstance(port, int)
        return [
            (stdlib_socket.AF_INET, stdlib_socket.SOCK_STREAM, 6, "", (address, port))
            for address in ("127.0.0.1", "127.0.0.2")
        ]

    async def getnameinfo(
        self, sockaddr: tuple[str, int] | tuple[str, int, int, int], flags: int
    ) -> tuple[str, str]:
        raise NotImplementedError


async def test_port_0_is_one_port_for_all_addresses_of_a_name() -> None:
    trio.socket.set_custom_hostname_resolver(TwoAddresses())
    async with closing(await open_tcp("both.example", 0, None)) as opened:
        addresses = [address_of(listener) for listener in opened]
        assert [address.host for address in addresses] == ["127.0.0.1", "127.0.0.2"]
        assert len({address.port for address in addresses}) == 1


@pytest.mark.parametrize("host", ["nobody.example", "x" * 70])
async def test_a_name_without_an_address_is_told(host: str) -> None:
    trio.socket.set_custom_hostname_resolver(TwoAddresses())
    with pytest.raises(ListenError, match=f"cannot listen on {host}, port 0: ."):
        await open_tcp(host, 0, None)


async def test_a_port_in_use_is_told_with_what_to_do() -> None:
    async with closing(await open_tcp("127.0.0.1", 0, None)) as (listener,):
        port = address_of(listener).port
        assert port is not None
        with pytest.raises(ListenError) as raised:
            await open_tcp("127.0.0.1", port, None)
        assert str(raised.value) == (
            f"cannot listen on 127.0.0.1, port {port}: Address already in use; choose another with "
            "--port, or 0 for a free one"
        )


async def test_closing_twice_is_closing_once() -> None:
    (listener,) = await open_tcp("127.0.0.1", 0, None)
    await module.close(listener)
    await module.close(listener)


async def test_closing_cannot_be_cancelled() -> None:
    (listener,) = await open_tcp("127.0.0.1", 0, None)
    with trio.CancelScope() as scope:
        scope.cancel()
        await module.close(listener)
    assert listener.transport.socket.fileno() == -1


@pytest.mark.parametrize(
    ("address", "text", "url"),
    [
        (ListenAddress("0.0.0.0", 80), "0.0.0.0:80", "ws://127.0.0.1:80"),
        (ListenAddress("::", 443, True), "[::]:443", "wss://[::1]:443"),
        (ListenAddress("/run/a.sock", None), "unix:/run/a.sock", "ws+unix:///run/a.sock"),
    ],
)
def test_an_address_can_be_connected_to_from_here(
    address: ListenAddress, text: str, url: str
) -> None:
    assert str(address) == text
    assert address.url == url


def test_who_is_behind_a_stream_in_memory_is_not_known() -> None:
    assert remote_of(trio.testing.memory_stream_pair()[0]) == ""


# ------------------------------------------------------------------------------ TLS


async def test_a_whole_conversation_over_tls(tmp_path: Path) -> None:
    authority, certificate, key = pem_files(tmp_path, "127.0.0.1")
    tls = tls_context(TLSFiles(certificate=certificate, key=key))
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with closing(await open_tcp("127.0.0.1", 0, tls)) as (listener,):
        address = address_of(listener)
        assert address.secure
        assert address.url.startswith("wss://127.0.0.1:")
        assert address.port is not None
        notes = Notes()

        async def serve() -> None:
            stream = await listener.accept()
            assert remote_of(stream).startswith("127.0.0.1:")
            websocket = WebSocket(
                stream, max_message_bytes=100, send_queue_bytes=1000, send_queue_age=10.0
            )
            async with trio.open_nursery() as nursery:
                websocket.accept(nursery, await read_head(stream, max_bytes=1000))
                websocket.start(nursery, notes)
                websocket.send_nowait(b"hello")
                await notes.wait(messages=1, departures=1)
                await websocket.close(1000, "", timeout=5.0)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            stream = await trio.open_ssl_over_tcp_stream(
                "127.0.0.1", address.port, https_compatible=True, ssl_context=trusting
            )
            peer = Peer(stream)
            await peer.upgrade(text("early"))
            assert await peer.receive() == (1, b"hello")
            await peer.send(close())
            assert await peer.expect_close() == 1000
            assert await peer.receive() is None
            await trio.aclose_forcefully(stream)
        assert notes.messages == [b"early"]


@pytest.mark.parametrize("version", ["TLSv1_1", "TLSv1_2", "TLSv1_3"])
async def test_tls_is_spoken_from_1_2_upwards(version: str, tmp_path: Path) -> None:
    authority, certificate, key = pem_files(tmp_path, "127.0.0.1")
    tls = tls_context(TLSFiles(certificate=certificate, key=key))
    old = ssl.create_default_context()
    authority.configure_trust(old)
    old.set_ciphers("DEFAULT:@SECLEVEL=0")  # so that the refusal is the server's
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.minimum_version = ssl.TLSVersion.TLSv1_1
        old.maximum_version = ssl.TLSVersion[version]
    client, server = trio.testing.memory_stream_pair()
    speaking = trio.SSLStream(client, old, server_hostname="127.0.0.1")
    answering = trio.SSLStream(server, tls, server_side=True)
    refused: list[bool] = []

    async def handshake(stream: trio.SSLStream[Any]) -> None:
        try:
            await stream.do_handshake()
            refused.append(False)
        except trio.BrokenResourceError:
            refused.append(True)
            await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(handshake, speaking)
        nursery.start_soon(handshake, answering)
    assert refused == [version == "TLSv1_1"] * 2


async def test_someone_who_does_not_speak_tls_has_left(tmp_path: Path) -> None:
    _, certificate, key = pem_files(tmp_path, "127.0.0.1")
    tls = tls_context(TLSFiles(certificate=certificate, key=key))
    client, server = trio.testing.memory_stream_pair()
    await client.send_all(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(ClientDisconnected):
        await read_head(trio.SSLStream(server, tls, server_side=True), max_bytes=1000)


@pytest.mark.parametrize("wrong", ["no certificate", "no key", "another's key", "not a key"])
def test_files_that_do_not_do_are_told(wrong: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    _, certificate, key = pem_files(tmp_path, "here")
    _, _, anothers = pem_files(other, "there")
    files = {
        "no certificate": (tmp_path / "nothing", key),
        "no key": (certificate, tmp_path / "nothing"),
        "another's key": (certificate, anothers),
        "not a key": (certificate, certificate),
    }
    with pytest.raises(ListenError, match=r"cannot use the certificate .* with the key .*: ."):
        tls_context(TLSFiles(certificate=files[wrong][0], key=files[wrong][1]))


def test_an_encrypted_key_is_an_error_and_no_question_on_the_terminal(tmp_path: Path) -> None:
    _, certificate, key = pem_files(tmp_path, "here")
    plain = serialization.load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(
        plain.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"password"),
        )
    )
    with pytest.raises(ListenError):
        tls_context(TLSFiles(certificate=certificate, key=key))


# ------------------------------------------------------------------------------ Unix sockets


async def test_a_unix_socket_is_for_owner_and_group(tmp_path: Path) -> None:
    path = tmp_path / "server.sock"
    async with closing(await open_unix(path)) as (listener,):
        assert address_of(listener) == ListenAddress(str(path), None)
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        async with await trio.open_unix_socket(path):
            server = await listener.accept()
            assert remote_of(server) == "unix"
            await server.aclose()


async def test_the_file_of_a_dead_server_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "server.sock"
    with stdlib_socket.socket(stdlib_socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with closing(await open_unix(path)), await trio.open_unix_socket(path):
        pass


@pytest.mark.parametrize("what", ["a server", "a file", "a folder"])
async def test_what_is_in_use_is_left_alone(what: str, tmp_path: Path) -> None:
    path = tmp_path / "server.sock"
    if what == "a file":
        path.write_text("precious")
    elif what == "a folder":
        path.mkdir()
    async with closing(await open_unix(path) if what == "a server" else []):
        with pytest.raises(ListenError) as raised:
            await open_unix(path)
        assert str(raised.value) == f"cannot listen on {path}: Address already in use"
        assert path.exists()


@pytest.mark.parametrize("name", ["nowhere/server.sock", "x" * 200])
async def test_a_path_that_cannot_be_had_is_told(name: str, tmp_path: Path) -> None:
    with pytest.raises(ListenError, match=r"cannot listen on .*: [A-Za-z]"):
        await open_unix(tmp_path / name)


@pytest.mark.parametrize("ticks", range(6))
async def test_opening_can_be_cancelled(ticks: int, tmp_path: Path) -> None:
    """What is left of it is no more than a file of a dead server."""
    path = tmp_path / "server.sock"
    async with trio.open_nursery() as nursery:

        async def opening() -> None:
            async with closing(await open_unix(path)):
                await trio.sleep_forever()

        nursery.start_soon(opening)
        for _ in range(ticks):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    async with closing(await open_unix(path)):
        pass


async def test_a_server_removes_its_file_and_nobody_elses(tmp_path: Path) -> None:
    path = tmp_path / "server.sock"
    async with closing(await open_unix(path)) as (listener,):
        mine = await SocketFile.of(address_of(listener))
        await mine.remove()
        assert path.exists(), "somebody listens there"
    await mine.remove()
    assert not path.exists()
    await mine.remove()  # a second time changes nothing


async def test_a_successors_file_stays_also_where_it_got_the_same_inode(tmp_path: Path) -> None:
    path = tmp_path / "server.sock"
    async with closing(await open_unix(path)) as (listener,):
        mine = await SocketFile.of(address_of(listener))
    async with closing(await open_unix(path)) as (listener,):
        theirs = await SocketFile.of(address_of(listener))
        for file in (mine, SocketFile(mine.path, theirs.inode)):
            await file.remove()
        assert path.exists()


async def test_a_host_that_has_no_address_is_told_apart_from_a_port_that_is_taken() -> None:
    with pytest.raises(ListenError, match=r"with --host$"):
        await open_tcp("nowhere.invalid", 0, None)
