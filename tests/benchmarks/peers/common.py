"""What the Python peers have in common: the token, the owner, the words of the protocol.

Written with what most of their users would take: PyJWT, sqlite3, json.
"""

from __future__ import annotations

import json
import sqlite3
import ssl
import threading
import time
import uuid
from typing import Any, Final

import jwt

from tests.benchmarks.settings import Settings

HEARTBEAT: Final = 30.0
"""Seconds between two pings, where a library sends them when asked to."""

AUTH_TIMEOUT: Final = 10.0

HELLO: Final = json.dumps(
    {"type": "hello", "protocol": "trioserver.v1", "auth_timeout_ms": int(1000 * AUTH_TIMEOUT)}
)


class Refusal(Exception):
    """The client is told ``code``, and closed with 1008."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code
        self.text = json.dumps(
            {"type": "error", "code": code, "message": code, "retry": "never", "fatal": True}
        )


def announce(port: int) -> None:
    """Tell whoever started this server where it is."""
    print(f"port {port}", flush=True)


def tls(settings: Settings) -> ssl.SSLContext | None:
    if settings.certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(settings.certificate, settings.key)
    return context


def verify(text: object, secret: str) -> str:
    """The user that the first message shows a token of. Raises `Refusal`."""
    first = parse(text)
    if first["type"] != "auth" or not isinstance(first.get("token"), str):
        raise Refusal("auth_required")
    try:
        claims = jwt.decode(
            first["token"], secret, algorithms=["HS256"], options={"require": ["exp", "sub"]}
        )
    except jwt.InvalidTokenError:
        raise Refusal("token_invalid") from None
    user: str = claims["sub"]
    return user


class Rooms:
    """Who owns which room, asked of SQLite: a connection for each thread."""

    def __init__(self, database: str) -> None:
        self._database = database
        self._threads = threading.local()

    def check(self, user: str, room: str) -> None:
        """Raises `Refusal` unless it is theirs. Blocks for some ten microseconds."""
        connection = getattr(self._threads, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self._database)
            self._threads.connection = connection
        row = connection.execute("SELECT user_id FROM rooms WHERE id = ?", (room,)).fetchone()
        if row is None or row[0] != user:
            raise Refusal("access_denied")


def ready(user: str, room: str) -> str:
    return json.dumps(
        {
            "type": "ready",
            "connection_id": uuid.uuid4().hex,
            "user": {"id": user},
            "resource": {"room_id": room},
            "server_time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "heartbeat": {"interval_ms": int(1000 * HEARTBEAT)},
        }
    )


def parse(text: object) -> dict[str, Any]:
    """A JSON object with a type. Raises `Refusal`."""
    if not isinstance(text, str):
        raise Refusal("binary_unsupported")
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise Refusal("bad_message") from None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise Refusal("bad_message")
    return message


def parse_request(text: object) -> dict[str, Any]:
    """A request of one of the three types, with the fields that its type has. Raises `Refusal`."""
    message = parse(text)
    if not isinstance(message.get("id"), int | str):
        raise Refusal("bad_message")
    match message:
        case {"type": "message", "data": {"text": str()}}:
            return message
        case {"type": "publish", "topic": str(), "data": _}:
            return message
        case {"type": "subscribe", "topics": [*topics]} if all(
            isinstance(topic, str) for topic in topics
        ):
            return message
    raise Refusal("invalid_payload")


def ack(message: dict[str, Any], data: Any = None) -> str:
    return json.dumps({"type": "ack", "id": message["id"], "data": data})


def handle(message: dict[str, Any]) -> dict[str, int]:
    """The application: what is done for a request of type ``message``."""
    return {"length": len(message["data"]["text"])}


def event(topic: str, offset: int, data: Any) -> str:
    return json.dumps({"type": "event", "topic": topic, "offset": offset, "data": data})
