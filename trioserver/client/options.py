"""The validated arguments of `connect`. Durations are in seconds."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias

import attrs
import trio

from protocol.fields import HeartbeatMode
from trioserver.client.backoff import Backoff
from trioserver.client.handshake import Headers
from trioserver.client.url import WebSocketURL

Token: TypeAlias = str | Callable[[], "str | Awaitable[str | None] | None"] | None
OpenStream: TypeAlias = Callable[[WebSocketURL], Awaitable[trio.abc.Stream]]

_positive: Final = attrs.validators.gt(0)


@attrs.frozen(kw_only=True)
class Options:
    """`connect` documents each of them. Raises `ValueError` for a value that is not allowed."""

    token: Token = attrs.field(repr=False)
    open_stream: OpenStream = attrs.field(repr=False)
    heartbeat: HeartbeatMode | None = attrs.field(
        validator=attrs.validators.in_(("frame", "message", None))
    )
    ready_timeout: float = attrs.field(validator=_positive)
    request_timeout: float = attrs.field(validator=_positive)
    reconnect: bool
    backoff: Backoff
    max_attempts: int | None = attrs.field(
        validator=attrs.validators.optional(attrs.validators.ge(1))
    )
    token_in_query: bool
    initial: Mapping[str, Any] | None = attrs.field(repr=False)
    headers: Headers = attrs.field(repr=False)
    max_message_bytes: int = attrs.field(validator=_positive)

    @property
    def can_refresh(self) -> bool:
        """Whether another token can be obtained."""
        return callable(self.token)

    async def ask_for_token(self) -> str | None:
        """The current token. Raises what the program's callable raises."""
        token = self.token() if callable(self.token) else self.token
        return await token if inspect.isawaitable(token) else token
