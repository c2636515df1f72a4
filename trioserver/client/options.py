"""What `connect` was called with. Durations are in seconds."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias

import attrs
import trio

from protocol.messages import HeartbeatMode
from trioserver.client.backoff import Backoff
from trioserver.client.handshake import Headers
from trioserver.client.url import Address

Token: TypeAlias = str | Callable[[], "str | Awaitable[str | None] | None"] | None
OpenStream: TypeAlias = Callable[[Address], Awaitable[trio.abc.Stream]]

_positive: Final = attrs.validators.gt(0)


@attrs.frozen(kw_only=True)
class Options:
    """`connect` says what each of them means. Raises `ValueError` with what is allowed."""

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
        """Whether there is somebody to ask for another token."""
        return callable(self.token)

    async def ask_for_token(self) -> str | None:
        """The token there is now. Raises what the program's callable raises."""
        token = self.token() if callable(self.token) else self.token
        return await token if inspect.isawaitable(token) else token
