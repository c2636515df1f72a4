# ruff: noqa: E501 -- lines of the page are as long as they are
"""The pseudo-code of ``docs/protocol.md``, translated line by line.

Each line of the page stands here as a comment, ``#|``, above the lines that do what it says. A test
compares the two texts, so that neither changes without the other.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Protocol

import attrs
import trio
from msgspec import UNSET

from protocol.errors import retry_of_close

Fields = dict[str, Any]


class ConnectFailed(Exception):
    """There is no WebSocket: the network said no, or HTTP answered with a ``status``."""

    def __init__(self, status: int | None = None) -> None:
        super().__init__(status)
        self.status = status


class Ended(Exception):
    """The WebSocket has ended, with a ``code`` and a ``reason``; 1006 where no Close frame came."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class Socket(Protocol):
    """What any WebSocket library has."""

    async def send(self, text: str) -> None: ...

    async def receive(self) -> str:
        """The next text message. Raises `Ended`."""

    async def close(self, code: int, reason: str) -> None: ...


class Waiting(Protocol):
    """A request without an answer."""

    def succeed(self, data: Any) -> None: ...
    def chunk(self, data: Any) -> None: ...
    def fail(self, error: Fields | None) -> None: ...


def advice_of_close(code: int, reason: str) -> Fields:
    """The advice of the close code and reason: "Close codes" of the page."""
    return {"code": reason or f"close_{code}", "retry": retry_of_close(code, reason)}


def advice_of_http(status: int | None) -> Fields:
    """The advice of the HTTP status: "Connecting" of the page."""
    final = status is not None and status < 500 and status not in (408, 429)
    return {"code": f"http_{status}", "retry": "never" if final else "backoff"}


@attrs.define(slots=False)
class PseudoClient:
    """What the pseudo-code leaves to the program is handed in.

    ``fetch_token`` gets a token from wherever the application has them. ``on_ready`` is told to
    subscribe again and to start sending.
    """

    connect: Callable[[], Awaitable[Socket]]
    fetch_token: Callable[[], Awaitable[str]]
    on_ready: Callable[[PseudoClient], Awaitable[None]]
    random: random.Random = attrs.field(factory=lambda: random.Random(1))
    waiting: dict[Any, Waiting] = attrs.field(factory=dict)
    events: list[Any] = attrs.field(factory=list)
    messages: list[Fields] = attrs.field(factory=list)
    logged: list[str] = attrs.field(factory=list)
    told: str | None = None
    socket: Socket | None = None
    _token: str | None = None
    _ids: itertools.count[int] = attrs.field(factory=lambda: itertools.count(1))

    async def get_token(self) -> str:
        if self._token is None:
            self._token = await self.fetch_token()
        return self._token

    def forget_the_token(self) -> None:
        self._token = None

    def next_id(self) -> int:
        return next(self._ids)

    async def send(self, **message: Any) -> None:
        assert self.socket is not None
        present = {name: value for name, value in message.items() if value is not UNSET}
        await self.socket.send(json.dumps(present))

    async def _try_to_connect(self) -> tuple[Socket | None, int | None]:
        """The socket, or the status that HTTP answered with; neither where there was no answer."""
        try:
            with trio.fail_after(30):
                self.socket = await self.connect()
        except ConnectFailed as error:
            return None, error.status
        except trio.TooSlowError:
            return None, None
        return self.socket, None

    async def renew(self) -> None:
        """In the background; if there is no token now, the session ends with the old one."""
        with suppress(ConnectFailed):
            self.forget_the_token()
            token = await self.get_token()
            await self.send(type="auth", id=self.next_id(), token=token)

    async def run(self) -> None:
        """Until the page says to stop."""
        async with trio.open_nursery() as background:
            await self._loop(background)
            background.cancel_scope.cancel()

    async def _loop(self, background: trio.Nursery) -> None:
        waiting = self.waiting
        #| attempt = 0                                   # pauses since a session that lasted
        attempt = 0
        #| refreshing = false                            # the last session ended with `refresh_token`
        refreshing = False
        #| loop:
        while True:
            #|     token = get_token()                       # the one in memory, unless it was forgotten
            token = await self.get_token()
            #|     failure, ready_since, come_back_at = none, none, none
            failure: Fields | None = None
            ready_since: float | None = None
            come_back_at: float | None = None
            #|     silence = 60 s                            # until `ready` says how often to expect something
            silence = 60.0
            #|     socket = connect(url, subprotocol = "trioserver.v1", timeout = 30 s)
            socket, status = await self._try_to_connect()
            #|     if connected:
            if socket is not None:
                #|         send {"type": "auth", "token": token, "heartbeat": "message"}
                await self.send(type="auth", token=token, heartbeat="message")
                ended: Ended | None = None
                #|         for each text message from socket, at most silence apart:
                while True:
                    try:
                        with trio.move_on_after(silence) as scope:
                            text = await socket.receive()
                    except Ended as error:
                        ended = error
                        break
                    if scope.cancelled_caught:
                        break
                    #|             m = parse(message)
                    m = json.loads(text)
                    id, data = m.get("id"), m.get("data")
                    #|             by m.type:
                    match m["type"]:
                        #|                 "ready":          ready_since = now()
                        case "ready":
                            ready_since = trio.current_time()
                            #|                                   silence = m.heartbeat.interval_ms + m.heartbeat.timeout_ms
                            heartbeat = m["heartbeat"]
                            silence = (heartbeat["interval_ms"] + heartbeat["timeout_ms"]) / 1000
                            #|                                   subscribe again; start sending requests
                            await self.on_ready(self)
                        #|                 "ping":           send {"type": "pong", id and data of m, if present}
                        case "ping":
                            await self.send(
                                type="pong", id=m.get("id", UNSET), data=m.get("data", UNSET)
                            )
                        #|                 "pong":           if m.id in waiting: waiting.remove(m.id).succeed(m.data)
                        case "pong":
                            if id in waiting:
                                waiting.pop(id).succeed(data)
                        #|                 "ack":            if m.id in waiting: waiting.remove(m.id).succeed(m.data)
                        case "ack":
                            if id in waiting:
                                waiting.pop(id).succeed(data)
                        #|                 "chunk":          if m.id in waiting: waiting[m.id].chunk(m.data)
                        case "chunk":
                            if id in waiting:
                                waiting[id].chunk(data)
                        #|                 "end":            if m.id in waiting: waiting.remove(m.id).succeed(m.data)
                        case "end":
                            if id in waiting:
                                waiting.pop(id).succeed(data)
                        #|                 "event":          on_event(m.topic, m.data)
                        case "event":
                            self.events.append((m["topic"], data))
                        #|                 "auth_expiring":  in the background: forget the token; token = get_token()
                        #|                                   send {"type": "auth", "id": next_id(), "token": token}
                        case "auth_expiring":
                            background.start_soon(self.renew)
                        #|                 "auth_refreshed": if m.id in waiting: waiting.remove(m.id).succeed(none)
                        case "auth_refreshed":
                            if id in waiting:
                                waiting.pop(id).succeed(None)
                        #|                 "goaway":         come_back_at = now() + m.reconnect_after_ms
                        case "goaway":
                            come_back_at = trio.current_time() + m["reconnect_after_ms"] / 1000
                        #|                 "error":          if m.fatal: failure = m
                        case "error":
                            if m["fatal"]:
                                failure = m
                            #|                                   else if m.id in waiting: waiting.remove(m.id).fail(m)
                            elif id in waiting:
                                waiting.pop(id).fail(m)
                            #|                                   else: log(m.code)
                            else:
                                self.logged.append(m["code"])
                        #|                 any other:        on_message(m)     # the application's own, or a later version's
                        case _:
                            self.messages.append(m)
                #|         if nothing came for too long: close the socket with 4000, "server_silent"
                if ended is None:
                    await socket.close(4000, "server_silent")
                    ended = Ended(1006, "")
                #|         if closed with 1000: stop
                if ended.code == 1000:
                    return
                #|         failure = failure or the advice of the close code and reason
                failure = failure or advice_of_close(ended.code, ended.reason)
            #|     else:
            else:
                #|         failure = the advice of the HTTP status, or {retry: "backoff"}
                failure = advice_of_http(status)
            #|
            #|     # The connection has ended, or there was none.
            #|     fail all in waiting                       # they may or may not have been done
            for request in waiting.values():
                request.fail(None)
            waiting.clear()
            #|     if failure.retry == "never": tell the user failure.code; stop
            if failure["retry"] == "never":
                self.told = failure["code"]
                return
            #|     if ready_since and now() - ready_since >= 30 s: attempt, refreshing = 0, false
            if ready_since is not None and trio.current_time() - ready_since >= 30:
                attempt, refreshing = 0, False
            #|     again, refreshing = refreshing, failure.retry == "refresh_token"
            again, refreshing = refreshing, failure["retry"] == "refresh_token"
            #|     if refreshing: forget the token           # each time: an expired token is never sent twice
            if refreshing:
                self.forget_the_token()
            #|     if come_back_at: wait until come_back_at
            if come_back_at is not None:
                await trio.sleep_until(come_back_at)
            #|     else if refreshing and not again: connect at once
            elif refreshing and not again:
                continue
            #|     else:
            else:
                #|         wait (failure.retry_after_ms or 0) + random(0, min(30000, 500 * 2^attempt)) ms
                jitter = self.random.uniform(0, min(30_000, 500 * 2**attempt))
                await trio.sleep(((failure.get("retry_after_ms") or 0) + jitter) / 1000)
                #|         attempt = attempt + 1
                attempt = attempt + 1
