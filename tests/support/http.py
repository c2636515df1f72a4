"""A client for HTTP in tests: h11 over any stream, and every way to misbehave."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import h11
import trio

from tests.support.patience import PATIENCE
from trioserver import Application, Config, Server, serve


@attrs.frozen
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class NoAnswer(Exception):
    """The connection ended without an answer, or in the middle of it."""


class Http:
    """One connection."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._h11 = h11.Connection(h11.CLIENT)

    async def request(
        self,
        method: str,
        target: str,
        *,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
    ) -> Answer:
        """Send a request; the answer. Over again on the same connection, if it is kept."""
        await self.send(method, target, headers=headers, body=body)
        return await self.receive()

    async def get(self, target: str) -> Answer:
        return await self.request("GET", target)

    async def send(
        self,
        method: str,
        target: str,
        *,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
    ) -> None:
        sent = {"Host": "localhost", **(headers or {})}
        if body and "Transfer-Encoding" not in sent:
            sent["Content-Length"] = str(len(body))
        request = h11.Request(method=method, target=target, headers=list(sent.items()))
        await self.stream.send_all(self._h11.send(request) or b"")
        if body:
            await self.stream.send_all(self._h11.send(h11.Data(body)) or b"")
        await self.stream.send_all(self._h11.send(h11.EndOfMessage()) or b"")

    async def receive(self) -> Answer:
        """Raises `NoAnswer`."""
        response, parts = None, []
        while True:
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError as error:
                raise NoAnswer from error
            if event is h11.NEED_DATA:
                self._h11.receive_data(await self.receive_bytes())
            elif isinstance(event, h11.Response):
                response = event
            elif isinstance(event, h11.Data):
                parts.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                assert response is not None
                break
            elif isinstance(event, h11.ConnectionClosed):
                raise NoAnswer
        headers = {name.decode(): value.decode() for name, value in response.headers}
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
        return Answer(response.status_code, headers, b"".join(parts))

    async def receive_bytes(self) -> bytes:
        """Empty at the end, however it ended."""
        try:
            return bytes(await self.stream.receive_some(65536))
        except trio.BrokenResourceError:
            return b""

    async def raw(self, data: bytes) -> Answer:
        """Send these bytes, and read an answer."""
        await self.stream.send_all(data)
        self._h11.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
        self._h11.send(h11.EndOfMessage())
        return await self.receive()

    async def is_closed(self) -> bool:
        """Waits for the end; False where something else comes."""
        with trio.fail_after(PATIENCE):
            return not await self.receive_bytes()


@attrs.define
class Site:
    """A server on real sockets."""

    server: Server
    _streams: list[trio.abc.Stream] = attrs.field(factory=list)

    async def open(self, tls: ssl.SSLContext | None = None, *, builtin: bool = False) -> Http:
        addresses = self.server.builtin_addresses if builtin else self.server.addresses
        port = addresses[0].port
        assert port is not None
        if tls is not None:
            stream: trio.abc.Stream = await trio.open_ssl_over_tcp_stream(
                "localhost", port, ssl_context=tls, https_compatible=True
            )
        else:
            stream = await trio.open_tcp_stream("127.0.0.1", port)
        self._streams.append(stream)
        return Http(stream)

    async def close(self) -> None:
        for stream in self._streams:
            await trio.aclose_forcefully(stream)


@asynccontextmanager
async def site(
    application: Application | None = None, config: Config | None = None, **more: Any
) -> AsyncIterator[Site]:
    """A server of an application on a free port."""
    async with trio.open_nursery() as nursery:

        async def run(*, task_status: Any) -> None:
            await serve(
                application or Application(),
                config or Config(port=0),
                task_status=task_status,
                **more,
            )

        with trio.fail_after(PATIENCE):
            place = Site(await nursery.start(run))
            try:
                yield place
            finally:
                with trio.CancelScope(shield=True):
                    await place.close()
        nursery.cancel_scope.cancel()
