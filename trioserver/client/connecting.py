"""`connect`: a client for as long as a block of code runs."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, NoReturn

import trio

from protocol.messages import HeartbeatMode
from trioserver.client.backoff import Backoff
from trioserver.client.client import Client, State
from trioserver.client.errors import ConnectionLost, ConnectTimeout, Refused
from trioserver.client.handshake import MAX_MESSAGE_BYTES
from trioserver.client.options import OpenStream, Options, Token
from trioserver.client.url import Address
from trioserver.client.url import open_stream as open_tcp_stream


@asynccontextmanager
async def connect(
    url: str,
    *,
    token: Token = None,
    heartbeat: HeartbeatMode | None = None,
    ready_timeout: float = 30.0,
    request_timeout: float = 30.0,
    reconnect: bool = True,
    backoff: Backoff | None = None,
    max_attempts: int | None = None,
    token_in_query: bool = False,
    initial: Mapping[str, Any] | None = None,
    extra_headers: Mapping[str, str] | None = None,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    ssl_context: ssl.SSLContext | None = None,
    open_stream: OpenStream | None = None,
    on_state: Callable[[State], object] | None = None,
) -> AsyncIterator[Client]:
    """A `Client` that is READY, and stays so or comes back, until the block ends.

    - ``url``: ``ws://`` or ``wss://``.
    - ``token``: text, None for none, or a callable, plain or async, that is asked at each
      connection, and for another one when the token expires. Without a callable an expired
      token is the end. Its `OSError` is a failed attempt; what else it raises comes out here.
    - ``heartbeat``: as WebSocket frames, or as messages, for where something between eats frames.
      None is as the route has it, which is frames unless it was made otherwise.
    - ``ready_timeout``: seconds until READY, for this function and for each later attempt.
    - ``request_timeout``: seconds for each request that does not say otherwise.
    - ``reconnect``: False ends with the first connection.
    - ``backoff``: the pauses between attempts; None is 0.5 s, doubling to 30 s, with full jitter.
      What the server says (``retry``, ``retry_after_ms``, `goaway`) comes first.
    - ``max_attempts``: give up after so many in a row that did not get READY; None never does.
    - ``token_in_query``: in the URL, which proxies log, for routes that allow it; not in `auth`.
    - ``initial``: fields of the first message that go over those of `auth`:
      ``{"type": "initial", "user_id": "alice"}``.
    - ``extra_headers``: for the opening handshake.
    - ``max_message_bytes``: what one message from the server may measure, by default 16 MiB.
    - ``ssl_context``: for ``wss://``; None trusts what the system trusts.
    - ``open_stream``: an async callable that gives an open stream to an `Address`, in place of TCP
      and TLS: a Unix socket, a proxy, a test's memory. TLS is its business then.
    - ``on_state``: called at each change of `Client.state`; must not block. What it raises comes
      out here.

    Raises, on the way in, `Refused` where the server refuses and trying again does not help,
    `ConnectTimeout`, `ConnectionLost` where ``reconnect`` or ``max_attempts`` allow no more, and
    `ValueError` for a URL or an option. Exceptions of the block come out as they are. Leaving the
    block takes 5 s at most; cancelled, it leaves without a word to the server.
    """
    options = Options(
        token=token,
        open_stream=open_stream or partial(open_tcp_stream, ssl_context=ssl_context),
        heartbeat=heartbeat,
        ready_timeout=ready_timeout,
        request_timeout=request_timeout,
        reconnect=reconnect,
        backoff=backoff or Backoff(),
        max_attempts=max_attempts,
        token_in_query=token_in_query,
        initial=initial,
        headers=tuple((extra_headers or {}).items()),
        max_message_bytes=max_message_bytes,
    )
    client = Client(Address.parse(url), options, on_state)
    own: Exception | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client._run)
            try:
                await _until_ready(client, ready_timeout)
                yield client
                await client._leave()
            except Exception as error:
                own = error  # past the nursery, which would wrap it
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        _raise(_single(group))
    finally:
        client._close()
    if own is not None:
        _raise(own)


async def _until_ready(client: Client, seconds: float) -> None:
    with trio.move_on_after(seconds):
        await client.wait_state(State.READY, State.CLOSED)
    reason = client.close_reason
    if client.state is State.READY:
        return
    if client.state is State.CONNECTING or reason is None or reason.code == "connect_timeout":
        raise ConnectTimeout(seconds, reason)
    raise Refused(reason) if reason.refused else ConnectionLost(reason)


def _single(error: BaseException) -> BaseException:
    """What the groups hold, where that is one; they come from nurseries that nobody sees."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _raise(error: BaseException) -> NoReturn:
    """Raise it with the context that it has, not with the group it was taken from."""
    context = error.__context__
    try:
        raise error
    finally:
        error.__context__ = context
        del error, context
