"""`connect`: a client for the duration of a block."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, NoReturn

import trio

from protocol.fields import HeartbeatMode
from trioserver.client.backoff import Backoff
from trioserver.client.client import Client
from trioserver.client.errors import ConnectionLostError, ConnectRejectedError, ConnectTimeoutError
from trioserver.client.handshake import MAX_MESSAGE_BYTES
from trioserver.client.network import open_stream as open_tcp_stream
from trioserver.client.options import OpenStream, Options, Token
from trioserver.client.reconnecting import Reconnector, State
from trioserver.client.url import WebSocketURL


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
    """Connect and yield a `Client` that is READY; reconnect when needed until the block ends.

    - ``url``: ``ws://`` or ``wss://``.
    - ``token``: text, None for no token, or a sync or async callable that returns one. A callable
      is called for each connection, and when the token expires. Without a callable, an expired
      token ends the client. If the callable raises `OSError`, the attempt has failed; other
      exceptions are raised from here.
    - ``heartbeat``: "frame" for WebSocket pings, "message" for `ping` messages, which also pass
      proxies that drop WebSocket pings. None uses the route's setting, "frame" by default.
    - ``ready_timeout``: seconds until READY, for this function and for each later attempt.
    - ``request_timeout``: seconds for each request that has no ``timeout`` of its own.
    - ``reconnect``: False ends the client with its first connection.
    - ``backoff``: pauses between attempts. None means up to 0.5 s, doubling to 30 s, with full
      jitter. The server's advice (``retry``, ``retry_after_ms``, `goaway`) takes precedence.
    - ``max_attempts``: consecutive attempts that may fail before READY. None means no limit.
    - ``token_in_query``: send the token in the URL instead of in `auth`, for routes that allow it.
      Proxies log URLs.
    - ``initial``: fields of the first message that replace or extend those of `auth`:
      ``{"type": "initial", "user_id": "alice"}``.
    - ``extra_headers``: HTTP headers of the opening handshake.
    - ``max_message_bytes``: maximum size of a message from the server, by default 16 MiB.
    - ``ssl_context``: for ``wss://``. None uses the certificate authorities of the system.
    - ``open_stream``: an async callable that opens a stream to a `WebSocketURL` instead of TCP and
      TLS, such as a Unix socket, a proxy or an in-memory stream. It must do TLS itself.
    - ``on_state``: called at each change of `Client.state`. It must not block. Its exceptions are
      raised from here.

    On entry it raises `ConnectRejectedError` if the server rejects the client and another attempt
    would not help, `ConnectTimeoutError`, `ConnectionLostError` if ``reconnect`` or
    ``max_attempts`` allow no further attempt, and `ValueError` for an invalid URL or option.
    Exceptions of the block are raised unchanged. Leaving the block takes at most 5 s. When it is
    cancelled, the connection is closed without a closing handshake.
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
    reconnector = Reconnector(WebSocketURL.parse(url), options, on_state)
    own: Exception | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reconnector.run)
            try:
                await _until_ready(reconnector, ready_timeout)
                yield Client(reconnector, options)
                await reconnector.leave()
            except Exception as error:
                own = error  # raised outside of the nursery, which would wrap it
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        _raise(_single(group))
    finally:
        reconnector.close()
    if own is not None:
        _raise(own)


async def _until_ready(client: Reconnector, seconds: float) -> None:
    with trio.move_on_after(seconds):
        await client.wait_state(State.READY, State.CLOSED)
    reason = client.close_reason
    if client.state is State.READY:
        return
    if client.state is State.CONNECTING or reason is None or reason.code == "connect_timeout":
        raise ConnectTimeoutError(seconds, reason)
    raise ConnectRejectedError(reason) if reason.by_server else ConnectionLostError(reason)


def _single(error: BaseException) -> BaseException:
    """The exception inside of nested groups of one; the nurseries are an implementation detail."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _raise(error: BaseException) -> NoReturn:
    """Raise it with its own context, not with the group that contained it."""
    context = error.__context__
    try:
        raise error
    finally:
        error.__context__ = context
        del error, context
