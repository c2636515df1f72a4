"""What the code does not say itself: each field in words, and an example of each message."""

from __future__ import annotations

from typing import Any, Final

FIELDS: Final[dict[str, str]] = {
    "type": "The kind of message.",
    "id": "Chosen by the sender of a request, echoed in every answer to it.",
    "data": "Any JSON value.",
    "topics": "Names of topics.",
    "events": "An older name for `topics`.",
    "topic": "Name of a topic.",
    "code": "A row of the table of errors, or a code of the application's own.",
    "expires_at": "When the token ends, RFC 3339 in UTC; null when it has no end.",
    "expires_in_ms": "The same as a duration, for which no clock is needed.",
    "AuthExpiring.expires_at": "When the token ends, RFC 3339 in UTC.",
    "Auth.token": "The access token.",
    "Auth.id": "Echoed in `ready`, `auth_refreshed`, or the `error`.",
    "Auth.heartbeat": "How the server shall ask for signs of life: `frame` or `message`. Any other "
    "text counts as absent: then it is as the route has it.",
    "Auth.client": "What the client says of itself.",
    "ClientInfo.name": "Name of the client's program.",
    "ClientInfo.version": "Its version.",
    "Cancel.id": "The id of the stream.",
    "Publish.data": "What subscribers get.",
    "Ping.data": "Comes back in the `pong`.",
    "Pong.data": "The `data` of the `ping`.",
    "Pong.timestamp": "The server's time, RFC 3339 in UTC; only from servers.",
    "Hello.protocol": "Name and version of the protocol.",
    "Hello.auth_timeout_ms": "Time until `ready` must have been reached, verification included.",
    "Hello.message": "A greeting for people.",
    "HeartbeatInfo.mode": "`frame` or `message`. Take any other text for `frame`.",
    "HeartbeatInfo.interval_ms": "Time between two pings of the server.",
    "HeartbeatInfo.timeout_ms": "Time in which anything at all must arrive after a ping.",
    "Limits.max_message_bytes": "Size of a message from the client, in bytes of UTF-8.",
    "Limits.max_server_message_bytes": (
        "Size of a message from the server, in bytes of UTF-8; absent where it is not known."
    ),
    "Limits.max_in_flight": "Requests without an answer at a time, streams included.",
    "Limits.max_streams": "Streams at a time.",
    "Limits.max_subscriptions": "Topics subscribed to at a time.",
    "Limits.messages_per_second": "Messages from the client, on average; twice that at once.",
    "Limits.bytes_per_second": "Bytes of messages from the client, on average; twice that at once.",
    "Limits.control_frames_per_second": "Ping and Pong frames from the client, on average; twice "
    "that at once.",
    "Ready.connection_id": "Names this connection in the server's log.",
    "Ready.user": "The user, with at least `id`.",
    "Ready.resource": "The parameters of the URL's path.",
    "Ready.server_time": "The server's time, RFC 3339 in UTC.",
    "Ready.heartbeat": "The heartbeat in force.",
    "Ready.limits": "The limits in force.",
    "Ready.id": "The id of the `auth`.",
    "AuthRefreshed.id": "The id of the `auth`.",
    "Ack.data": "The result; absent when there is none.",
    "Error.message": "For people; the text may change.",
    "Error.retry": "What to do after the connection's end, or with the request: `never`, "
    "`refresh_token` or `backoff`. Take any other text for `backoff`.",
    "Error.fatal": "Whether the server closes the connection now.",
    "Error.retry_after_ms": "Wait at least so long.",
    "Error.id": "The id of the request; absent when the error is not about one.",
    "Chunk.id": "The id of the request.",
    "Chunk.seq": "Counts the chunks of this stream, from 0.",
    "End.id": "The id of the request.",
    "End.data": "A last value; absent when there is none.",
    "End.cancelled": "True where `cancel` ended the stream.",
    "Event.offset": "Counts the topic's events, from 1; it starts anew with the server.",
    "Event.data": "What was published.",
    "Goaway.reason": "The error code that the close will have.",
    "Goaway.deadline_ms": "Time until the server closes the connection.",
    "Goaway.reconnect_after_ms": "When to connect again, counted from this message.",
    "Message.type": "A type of the application's own.",
    "Message.traceparent": "The trace that a request belongs to, as W3C Trace Context writes it; "
    "ignored where malformed.",
}
"""By ``Struct.field``, else by the field alone."""

_UNTIL: Final = "2030-01-01T12:00:00.000Z"

EXAMPLES: Final[dict[str, dict[str, Any]]] = {
    "Auth": {
        "type": "auth",
        "token": "eyJhbGciOiJIUzI1NiJ9.e30.c2ln",
        "client": {"name": "my-app", "version": "1.4"},
    },
    "Ping": {"type": "ping", "id": 7},
    "Pong": {"type": "pong", "id": 7, "timestamp": "2030-01-01T11:00:00.000Z"},
    "Cancel": {"type": "cancel", "id": "ask-1"},
    "Subscribe": {"type": "subscribe", "id": 2, "topics": ["news"]},
    "Unsubscribe": {"type": "unsubscribe", "id": 3, "topics": ["news"]},
    "Publish": {"type": "publish", "id": 4, "topic": "news", "data": {"headline": "Hello"}},
    "Message": {"type": "message", "id": 1, "data": {"text": "Hello"}},
    "Hello": {"type": "hello", "protocol": "trioserver.v1", "auth_timeout_ms": 10000},
    "Ready": {
        "type": "ready",
        "connection_id": "c-5f2a9b",
        "user": {"id": "alice"},
        "resource": {"conversation_id": "1"},
        "expires_at": _UNTIL,
        "server_time": "2030-01-01T11:00:00.000Z",
        "heartbeat": {"mode": "frame", "interval_ms": 30000, "timeout_ms": 10000},
        "limits": {
            "max_message_bytes": 1048576,
            "max_in_flight": 256,
            "max_streams": 32,
            "max_subscriptions": 1000,
            "messages_per_second": 1000,
            "bytes_per_second": 8388608,
            "control_frames_per_second": 50,
        },
    },
    "AuthExpiring": {"type": "auth_expiring", "expires_at": _UNTIL, "expires_in_ms": 60000},
    "AuthRefreshed": {
        "type": "auth_refreshed",
        "id": 5,
        "expires_at": _UNTIL,
        "expires_in_ms": 3600000,
    },
    "Ack": {"type": "ack", "id": 1, "data": {"message_id": 17}},
    "Error": {
        "type": "error",
        "id": 1,
        "code": "rate_limited",
        "message": "Too many messages in a short time.",
        "retry": "backoff",
        "retry_after_ms": 500,
        "fatal": False,
    },
    "Chunk": {"type": "chunk", "id": "ask-1", "seq": 0, "data": {"text": "Hel"}},
    "End": {"type": "end", "id": "ask-1"},
    "Event": {"type": "event", "topic": "news", "offset": 12, "data": {"headline": "Hello"}},
    "Goaway": {
        "type": "goaway",
        "reason": "shutdown",
        "deadline_ms": 4200,
        "reconnect_after_ms": 4200,
    },
}
"""By the Struct's name."""
