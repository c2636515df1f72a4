"""The messages of ``trioserver.v1``: frozen values, one Struct for each `type`.

Durations are integers in milliseconds (``_ms``), times are RFC 3339 text in UTC. An application's
own messages are a `Message`. Either side may be newer: unknown fields are ignored, and
``heartbeat``, ``mode`` and ``retry`` may have unknown values. An optional field is None if it is
absent or null, except ``data``, for which null is a value.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeAlias

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from protocol.errors import RETRIES, Retry
from protocol.fields import Id, Topic, Topics


class Message(Struct, frozen=True, omit_defaults=True):
    """An application's message, in either direction; also the fields that all messages share.

    ``type`` is compared with the known types, and with `TYPE_PATTERN` if it is unknown.
    ``traceparent`` is not checked here; see `protocol.traceparent`.
    """

    type: str
    id: Id | None = None
    data: Raw | UnsetType = UNSET
    traceparent: Raw | UnsetType = UNSET


class _Reserved(Struct, frozen=True, omit_defaults=True, tag_field="type", tag=str.lower):
    """Base class of the messages that the protocol defines."""


class ClientInfo(Struct, frozen=True, omit_defaults=True):
    """Name and version of a client, as the client says. Shown to operators, not trusted."""

    name: Annotated[str, Meta(max_length=64)] | None = None
    version: Annotated[str, Meta(max_length=64)] | None = None


# ------------------------------------------------------------------------------ from the client


class Auth(_Reserved, frozen=True):
    """The first message; after `ready`, a new token of the same user.

    An unknown ``heartbeat`` is treated as absent.
    """

    token: str | None = None
    id: Id | None = None
    heartbeat: str | None = None
    client: ClientInfo | None = None

    def __repr__(self) -> str:
        return f"Auth(id={self.id!r}, heartbeat={self.heartbeat!r})"  # never the token


class Cancel(_Reserved, frozen=True):
    """Ends a stream early. The server still sends its `end`."""

    id: Id


class Subscribe(_Reserved, frozen=True):
    """Subscribes to topics. ``events`` is an older name for ``topics``."""

    topics: Topics | None = None
    events: Topics | None = None
    id: Id | None = None


class Unsubscribe(_Reserved, frozen=True):
    """Ends the subscription to topics."""

    topics: Topics | None = None
    events: Topics | None = None
    id: Id | None = None


class Publish(_Reserved, frozen=True):
    """Sends an event to all subscribers of a topic."""

    topic: Topic
    data: Raw
    id: Id | None = None


# ----------------------------------------------------------------------------- from either side


class Ping(_Reserved, frozen=True):
    """Requests a `pong`."""

    id: Id | None = None
    data: Raw | UnsetType = UNSET


class Pong(_Reserved, frozen=True):
    """Answers a `ping` with its ``id`` and ``data``; the server adds its time."""

    id: Id | None = None
    data: Raw | UnsetType = UNSET
    timestamp: str | None = None


# ------------------------------------------------------------------------------ from the server


class Hello(_Reserved, frozen=True):
    """The server's first message. The client must authenticate now."""

    protocol: str
    auth_timeout_ms: int
    message: str | None = None


class HeartbeatInfo(Struct, frozen=True):
    """How the server detects that a client has gone."""

    mode: str
    interval_ms: int
    timeout_ms: int


class Limits(Struct, frozen=True, omit_defaults=True):
    """Limits of one connection."""

    max_message_bytes: int
    max_in_flight: int
    max_streams: int
    max_subscriptions: int
    messages_per_second: int
    bytes_per_second: int
    control_frames_per_second: int | None = None
    max_server_message_bytes: int | None = None


class Ready(_Reserved, frozen=True):
    """The client is authenticated and authorized. Messages are handled from now on."""

    connection_id: str
    user: dict[str, Any]
    resource: dict[str, str]
    expires_at: str | None
    server_time: str
    heartbeat: HeartbeatInfo
    limits: Limits
    id: Id | None = None


class AuthExpiring(_Reserved, frozen=True, tag="auth_expiring"):
    """The token expires soon. Without a new one in an `auth`, the connection is closed then."""

    expires_at: str
    expires_in_ms: int


class AuthRefreshed(_Reserved, frozen=True, tag="auth_refreshed"):
    """The server has accepted the new token."""

    expires_at: str | None
    expires_in_ms: int | None
    id: Id | None = None


class Ack(_Reserved, frozen=True):
    """The answer to a request that succeeded."""

    id: Id
    data: Raw | UnsetType = UNSET


class Error(_Reserved, frozen=True):
    """The answer to a request that failed (``id``), or the end of the connection (``fatal``)."""

    code: str
    message: str
    retry: str
    fatal: bool
    id: Id | None = None
    retry_after_ms: int | None = None

    @property
    def advice(self) -> Retry:
        """``retry``, or "backoff" if a newer server sent an unknown value."""
        return next((known for known in RETRIES if known == self.retry), "backoff")


class Chunk(_Reserved, frozen=True):
    """One value of a stream."""

    id: Id
    seq: int
    data: Raw


class End(_Reserved, frozen=True):
    """The end of a stream."""

    id: Id
    data: Raw | UnsetType = UNSET
    cancelled: bool | None = None


class Event(_Reserved, frozen=True):
    """A published event. ``offset`` counts the events of this topic, from 1."""

    topic: str
    offset: int
    data: Raw


class Goaway(_Reserved, frozen=True):
    """The server stops. The client should reconnect after ``reconnect_after_ms``."""

    reason: str
    deadline_ms: int
    reconnect_after_ms: int


ClientMessage: TypeAlias = Auth | Ping | Pong | Cancel | Subscribe | Unsubscribe | Publish
ServerMessage: TypeAlias = (
    Hello
    | Ready
    | AuthExpiring
    | AuthRefreshed
    | Ping
    | Pong
    | Ack
    | Error
    | Chunk
    | End
    | Event
    | Goaway
)


def _names(union: Any) -> frozenset[str]:
    return frozenset(str(struct.__struct_config__.tag) for struct in union.__args__)


CLIENT_TYPES: Final = _names(ClientMessage)
SERVER_TYPES: Final = _names(ServerMessage)
RESERVED_TYPES: Final = CLIENT_TYPES | SERVER_TYPES
"""Types that an application must not use for its own messages."""
