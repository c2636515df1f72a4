"""The AsyncAPI 3.0 document. It speaks for the server: ``receive`` is what a client may send."""

from __future__ import annotations

from typing import Any, Final

import attrs

from protocol.fields import SUBPROTOCOL
from protocol.generate.descriptions import EXAMPLES
from protocol.generate.schema import MESSAGES, components, summary, type_name

_ADDRESS: Final = "{route}"
_CHANNEL: Final = "#/channels/session"


@attrs.frozen
class _Operation:
    name: str
    action: str
    messages: tuple[str, ...]
    summary: str
    replies: tuple[str, ...] = ()


_OPERATIONS: Final = (
    _Operation("greet", "send", ("Hello",), "The first message of a connection."),
    _Operation(
        "authenticate",
        "receive",
        ("Auth",),
        "The client's first message, answered with `ready` or a fatal `error`. Later: a fresh "
        "token, answered with `auth_refreshed` or `error`.",
        ("Ready", "AuthRefreshed", "Error"),
    ),
    _Operation(
        "request",
        "receive",
        ("Message",),
        "A message of the application's own. With an `id` it is answered: with `ack` or `error`, "
        "or, where it opens a stream, with `chunk`s and one `end` or `error`.",
        ("Ack", "Chunk", "End", "Error"),
    ),
    _Operation(
        "cancel", "receive", ("Cancel",), "Ends a stream early. Not answered; its `end` comes."
    ),
    _Operation(
        "subscribe",
        "receive",
        ("Subscribe",),
        "All topics or, when one of them is forbidden, none.",
        ("Ack", "Error"),
    ),
    _Operation(
        "unsubscribe", "receive", ("Unsubscribe",), "No more events of topics.", ("Ack", "Error")
    ),
    _Operation(
        "publish",
        "receive",
        ("Publish",),
        'An event for all subscribers. The `ack` has its offset: `{"offset": 12}`.',
        ("Ack", "Error"),
    ),
    _Operation("ping", "receive", ("Ping",), "The client asks for a sign of life.", ("Pong",)),
    _Operation(
        "heartbeat",
        "send",
        ("Ping",),
        "With `heartbeat: message`, the server asks for a sign of life each `interval_ms`.",
        ("Pong",),
    ),
    _Operation("notify", "send", ("Message",), "The application speaks first."),
    _Operation("event", "send", ("Event",), "Something was published to a subscribed topic."),
    _Operation("warnOfExpiry", "send", ("AuthExpiring",), "Time for a fresh token."),
    _Operation("leave", "send", ("Goaway",), "The server is going to close the connection."),
    _Operation(
        "refuse",
        "send",
        ("Error",),
        "Answers a request, or ends the connection: then `fatal` is true and a close frame "
        "follows whose reason is `code`.",
    ),
)


def asyncapi_document(version: str = "1.0.0") -> dict[str, Any]:
    """The document ``asyncapi.json``."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": SUBPROTOCOL,
            "version": version,
            "description": "JSON over WebSocket: authentication by the first message, requests, "
            "streams, topics. docs/protocol.md has the rules in words.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "local": {
                "host": "127.0.0.1:8765",
                "protocol": "ws",
                "description": "Where `trioserver demo` listens.",
            },
            "public": {
                "host": "example.org",
                "protocol": "wss",
                "description": "Over the Internet only with TLS: tokens travel in messages.",
            },
        },
        "channels": {"session": _channel()},
        "operations": {operation.name: _operation(operation) for operation in _OPERATIONS},
        "components": {
            "messages": {struct.__name__: _message(struct) for struct in MESSAGES},
            "schemas": components("#/components/schemas/{name}"),
        },
    }


def _channel() -> dict[str, Any]:
    offered = {
        "type": "object",
        "properties": {"Sec-WebSocket-Protocol": {"type": "string", "const": SUBPROTOCOL}},
    }
    return {
        "address": _ADDRESS,
        "title": "Session",
        "description": "One WebSocket connection: one text message holds one JSON object.",
        "parameters": {
            "route": {
                "description": "A path of the application's, with the resource's name in it.",
                "examples": ["/ws/conversations/1"],
            }
        },
        "messages": {
            struct.__name__: {"$ref": f"#/components/messages/{struct.__name__}"}
            for struct in MESSAGES
        },
        "bindings": {"ws": {"method": "GET", "headers": offered, "bindingVersion": "0.1.0"}},
    }


def _operation(operation: _Operation) -> dict[str, Any]:
    described = {
        "action": operation.action,
        "channel": {"$ref": _CHANNEL},
        "summary": operation.summary,
        "messages": _references(operation.messages),
    }
    if operation.replies:
        described["reply"] = {
            "channel": {"$ref": _CHANNEL},
            "messages": _references(operation.replies),
        }
    return described


def _message(struct: type) -> dict[str, Any]:
    name = struct.__name__
    return {
        "name": type_name(struct),
        "title": name,
        "summary": summary(struct),
        "payload": {"$ref": f"#/components/schemas/{name}"},
        "examples": [{"payload": EXAMPLES[name]}],
    }


def _references(names: tuple[str, ...]) -> list[dict[str, str]]:
    return [{"$ref": f"{_CHANNEL}/messages/{name}"} for name in names]
