"""Receive the body of a request, and bound its size, its chunks, its pieces and its pace."""

from __future__ import annotations

from typing import Final

import trio

from trioserver.config import HttpConfig
from trioserver.http.cycle import TOO_SLOW, RequestCycle
from trioserver.http.request_body import RequestBody
from trioserver.http.transport import PIECE_BYTES, Transport
from trioserver.websocket.handshake import RequestRejected
from trioserver.websocket.pace import Pace

_STEP: Final = 4 * 1024
"""Bytes of a body that are parsed at once, as long as it may come in tiny chunks. To parse 64 KiB
of those would delay all other tasks by 50 ms."""

_SMALL: Final = 1024
_CHUNKS_OF_A_READ: Final = 4
"""A read of fewer bytes than `_SMALL` is charged to the pace. `_CHUNKS_OF_A_READ` chunks that are
smaller than that are charged as one read."""


async def receive_body(
    cycle: RequestCycle, transport: Transport, data: bytes, config: HttpConfig
) -> bytes:
    """Pass the body to the application, starting with ``data``; return the bytes after its end.

    Stop early if the request is done without the rest of the body. Raises `RequestRejected` if the
    body is too large, malformed, incomplete or too slow.
    """
    body, step, small_chunks = cycle.body, _STEP, 0
    pace = Pace(0, trio.current_time())
    while not (body.is_complete or cycle.done.is_set()):
        if not data:
            data = await _receive(cycle, transport, config.body_timeout)
            if cycle.done.is_set():
                break
            pace.left -= len(data) < _SMALL
        used = body.receive_data(data[:step])
        data = data[used:]
        _check(body, config.max_body_bytes)
        new_small_chunks = body.small_chunks - small_chunks
        small_chunks = body.small_chunks
        step = _STEP if new_small_chunks > 0 else min(2 * step, PIECE_BYTES)
        pace.left -= max(0, new_small_chunks) / _CHUNKS_OF_A_READ
        with trio.move_on_after(config.response_timeout) as scope:
            await cycle.pass_body()
        if scope.cancelled_caught:
            raise RequestRejected(503, TOO_SLOW)
        if pace.left <= 0 and (rest := pace.rest(trio.current_time())):
            with trio.move_on_after(rest):
                await cycle.done.wait()
    return data


def too_large(max_bytes: int) -> RequestRejected:
    """Return the rejection of a body that is larger than ``max_bytes``, or announced to be."""
    return RequestRejected(413, f"The body of the request is larger than {max_bytes} bytes.")


async def _receive(cycle: RequestCycle, transport: Transport, timeout: float) -> bytes:
    data = await transport.receive(timeout)
    if not data and not cycle.done.is_set():
        if data is None:
            raise RequestRejected(408, "The body of the request did not arrive in time.")
        raise RequestRejected(400, "The body of the request is incomplete.")
    return data or b""


def _check(body: RequestBody, max_bytes: int) -> None:
    if body.size > max_bytes:
        raise too_large(max_bytes)
    if body.has_too_many_chunks:
        raise RequestRejected(400, "The body of the request has too many chunks for its size.")
    if body.is_malformed:
        raise RequestRejected(400, "The body of the request is malformed.")
