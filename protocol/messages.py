"""The messages of ``trioserver.v1``: frozen values, one Struct for each `type`.

Durations are integers in ms (``_ms``), instants RFC 3339 text in UTC. An application's own types
travel as `Message`. So that either side can be extended first, unknown fields are ignored, and
``heartbeat``, ``mode`` and ``retry`` may hold words that are not known here. An optional field is
None where it is absent and where it is null, except ``data``, which may really be null.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, TypeAlias, get_args

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from protocol.errors import RETRIES, Retry

SUBPROTOCOL: Final = "trioserver.v1"
"""The name offered in Sec-WebSocket-Protocol; a client that offers none is served the same."""

TYPE_PATTERN: Final = r"^[a-z0-9_.:-]{1,64}$"

MAX_SAFE_INTEGER: Final = 2**53 - 1
"""The largest integer that every JSON implementation keeps exactly (RFC 8259, section 6)."""

Id: TypeAlias = (
    Annotated[str, Meta(min_length=1, max_length=64)]
    | Annotated[int, Meta(ge=-MAX_SAFE_INTEGER, le=MAX_SAFE_INTEGER)]
)
"""Chosen by the sender of a request, echoed in every answer to it."""

Topic: TypeAlias = Annotated[str, Meta(min_length=1, max_length=256)]
Topics: TypeAlias = Annotated[tuple[Topic, ...], Meta(min_length=1, max_length=100)]
HeartbeatMode: TypeAlias = Literal["frame", "message"]
HEARTBEAT_MODES: Final[tuple[HeartbeatMode, ...]] = get_args(HeartbeatMode)


class Message(Struct, frozen=True, omit_defaults=True):
    """An application's message, in either direction; also the envelope every message is read by.

    ``type`` is checked against the registered types, and against `TYPE_PATTERN` when unknown.
    ``traceparent`` may be anything: `protocol.traceparent` reads it, where it is wanted.
    """

    type: str
    id: Id | None = None
    data: Raw | UnsetType = UNSET
    traceparent: Raw | UnsetType = UNSET


class _Reserved(Struct, frozen=True, omit_defaults=True, tag_field="type", tag=str.lower):
    """A message whose `type` the protocol defines."""


class ClientInfo(Struct, frozen=True, omit_defaults=True):
    """What a client says of itself; shown to operators, believed by nobody."""

    name: Annotated[str, Meta(max_length=64)] | None = None
    version: Annotated[str, Meta(max_length=64)] | None = None


# ------------------------------------------------------------------------------ from the client


class Auth(_Reserved, frozen=True):
    """The first message; after `ready`, a fresh token for the same subject.

    A ``heartbeat`` that is none of `HEARTBEAT_MODES` counts as absent.
    """

    token: str | None = None
    id: Id | None = None
    heartbeat: str | None = None
    client: ClientInfo | None = None

    def __repr__(self) -> str:
        return f"Auth(id={self.id!r}, heartbeat={self.heartbeat!r})"  # never the token


class Cancel(_Reserved, frozen=True):
    """Ends a stream early; it still gets its `end`."""

    id: Id


class Subscribe(_Reserved, frozen=True):
    """Asks for the events of topics; ``events`` is an older name for ``topics``."""

    topics: Topics | None = None
    events: Topics | None = None
    id: Id | None = None


class Unsubscribe(_Reserved, frozen=True):
    """Asks for no more events of topics."""

    topics: Topics | None = None
    events: Topics | None = None
    id: Id | None = None


class Publish(_Reserved, frozen=True):
    """Sends data to everybody who is subscribed to a topic."""

    topic: Topic
    data: Raw
    id: Id | None = None


# ----------------------------------------------------------------------------- from either side


class Ping(_Reserved, frozen=True):
    """Asks for a `pong`."""

    id: Id | None = None
    data: Raw | UnsetType = UNSET


class Pong(_Reserved, frozen=True):
    """Answers a `ping`, with its ``id`` and ``data``; from the server with its time."""

    id: Id | None = None
    data: Raw | UnsetType = UNSET
    timestamp: str | None = None


# ------------------------------------------------------------------------------ from the server


class Hello(_Reserved, frozen=True):
    """The server's first words: here you are, now authenticate."""

    protocol: str
    auth_timeout_ms: int
    message: str | None = None


class HeartbeatInfo(Struct, frozen=True):
    """How the server finds out that a client has gone."""

    mode: str
    interval_ms: int
    timeout_ms: int


class Limits(Struct, frozen=True, omit_defaults=True):
    """What the server takes from one connection, and sends to it."""

    max_message_bytes: int
    max_in_flight: int
    max_streams: int
    max_subscriptions: int
    messages_per_second: int
    bytes_per_second: int
    control_frames_per_second: int | None = None
    max_server_message_bytes: int | None = None


class Ready(_Reserved, frozen=True):
    """Authenticated, and the resource is this user's: from here on messages are handled."""

    connection_id: str
    user: dict[str, Any]
    resource: dict[str, str]
    expires_at: str | None
    server_time: str
    heartbeat: HeartbeatInfo
    limits: Limits
    id: Id | None = None


class AuthExpiring(_Reserved, frozen=True, tag="auth_expiring"):
    """The token ends soon: send a new one in `auth`, or be closed at ``expires_at``."""

    expires_at: str
    expires_in_ms: int


class AuthRefreshed(_Reserved, frozen=True, tag="auth_refreshed"):
    """The new token was accepted."""

    expires_at: str | None
    expires_in_ms: int | None
    id: Id | None = None


class Ack(_Reserved, frozen=True):
    """A request has been done."""

    id: Id
    data: Raw | UnsetType = UNSET


class Error(_Reserved, frozen=True):
    """A refusal, of a request (``id``) or of the whole connection (``fatal``).

    ``advice`` is ``retry`` where that is known here, else "backoff".
    """

    code: str
    message: str
    retry: str
    fatal: bool
    id: Id | None = None
    retry_after_ms: int | None = None

    @property
    def advice(self) -> Retry:
        """What to do: wait and try again, where a newer server says what is not known here."""
        return next((known for known in RETRIES if known == self.retry), "backoff")


class Chunk(_Reserved, frozen=True):
    """One value of a stream."""

    id: Id
    seq: int
    data: Raw


class End(_Reserved, frozen=True):
    """The last message of a stream."""

    id: Id
    data: Raw | UnsetType = UNSET
    cancelled: bool | None = None


class Event(_Reserved, frozen=True):
    """Something was published; ``offset`` counts the events of this topic, from 1."""

    topic: str
    offset: int
    data: Raw


class Goaway(_Reserved, frozen=True):
    """The server leaves: come back after ``reconnect_after_ms``, a slot of this client's own."""

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
"""Names an application cannot give to messages of its own."""


def instant(seconds: float) -> str:
    """RFC 3339 text in UTC, to the millisecond, for seconds since the Unix epoch.

    Times beyond the year 9999, which some tokens carry to mean "never", become its last second.
    """
    last = 253402300799.0
    whole, part = divmod(round(min(max(seconds, 0.0), last) * 1_000_000), 1_000_000)
    return f"{_second(whole)}.{part // 1000:03d}Z"


@lru_cache(maxsize=64)  # in a storm thousands come in the same second, with the same expiry
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat()


def milliseconds(seconds: float) -> int:
    """A duration in seconds as whole milliseconds, never negative."""
    return round(min(max(seconds, 0.0), 1e12) * 1000)


def raw(data: Any) -> Raw:
    """Application data as JSON, ready to be put into a message.

    Raises `TypeError` or `ValueError` for what JSON cannot express.
    """
    return data if isinstance(data, Raw) else Raw(msgspec.json.encode(data))
