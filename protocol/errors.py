"""The table of errors: code, close code, retry advice. Servers, clients and the docs use it.

``retry`` tells a client whether to give up, to fetch another token, or to connect again later.
Close codes are those of RFC 6455, section 7.4, and the private range 4000-4999.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, Literal, TypeAlias, get_args

import attrs

Retry: TypeAlias = Literal["never", "refresh_token", "backoff"]
RETRIES: Final[tuple[Retry, ...]] = get_args(Retry)


class Fatal(Enum):
    """When an error closes the connection. The values are shown in the docs."""

    ALWAYS = "always"
    BEFORE_READY = "before ready"
    WHEN_REPEATED = "when repeated"
    NEVER = "never"


@attrs.frozen
class ErrorCode:
    """A row of the table.

    ``close_code`` is the close code when the error is fatal, None if it never is. ``message`` is
    the default text for people. ``advice`` tells the author of a client what to do. Errors with
    ``is_clients_fault`` count towards ``too_many_errors``.
    """

    name: str
    close_code: int | None
    retry: Retry
    fatal: Fatal
    message: str
    advice: str
    is_clients_fault: bool = True


_ROWS: Final = (
    ErrorCode("shutdown", 1001, "backoff", Fatal.ALWAYS,
         "The server is shutting down.",
         "Connect again after `reconnect_after_ms` of the `goaway`.", is_clients_fault=False),
    ErrorCode("restart", 1012, "backoff", Fatal.ALWAYS,
         "The server is restarting.",
         "Connect again after `reconnect_after_ms` of the `goaway`.", is_clients_fault=False),
    ErrorCode("protocol_error", 1002, "never", Fatal.ALWAYS,
         "A frame violates RFC 6455.",
         "The client's WebSocket library, or a proxy, has a defect."),
    ErrorCode("binary_unsupported", 1003, "never", Fatal.ALWAYS,
         "Binary messages are not supported.",
         "Send JSON as text messages."),
    ErrorCode("not_utf8", 1007, "never", Fatal.ALWAYS,
         "A text message is not valid UTF-8.",
         "Encode text messages as UTF-8."),
    ErrorCode("auth_timeout", 1008, "backoff", Fatal.ALWAYS,
         "Authentication did not finish in time.",
         "Send `auth` as soon as `hello` arrives. Connect again later."),
    ErrorCode("auth_required", 1008, "never", Fatal.ALWAYS,
         "The first message must be 'auth'.",
         "Send `auth` first, then wait for `ready` before you send anything else."),
    ErrorCode("token_missing", 1008, "never", Fatal.ALWAYS,
         "No token was sent.",
         "Send the token in the `token` field of `auth`."),
    ErrorCode("token_invalid", 1008, "never", Fatal.ALWAYS,
         "The token is not valid.",
         "Log in again. Operators: check issuer, audience and key."),
    ErrorCode("token_too_big", 1008, "never", Fatal.ALWAYS,
         "The token is larger than the limit.",
         "Issue tokens with fewer claims, such as groups, or raise the server's limit."),
    ErrorCode("token_expired", 1008, "refresh_token", Fatal.ALWAYS,
         "The token has expired.",
         "Fetch a new token and connect again."),
    ErrorCode("token_not_yet_valid", 1008, "backoff", Fatal.ALWAYS,
         "The token is not valid yet.",
         "Connect again later. Operators: compare the clocks of issuer and server."),
    ErrorCode("token_revoked", 1008, "never", Fatal.ALWAYS,
         "The token has been revoked.",
         "Log in again."),
    ErrorCode("access_denied", 1008, "never", Fatal.ALWAYS,
         "Not found or access denied.",
         "The resource does not exist, or is not this user's. The server does not say which."),
    ErrorCode("session_blocked", 1008, "never", Fatal.ALWAYS,
         "The session is blocked.",
         "Tell the user. An administrator must remove the block."),
    ErrorCode("bad_message", 1008, "never", Fatal.BEFORE_READY,
         "The message is not a valid JSON object of this protocol.",
         "Send one JSON object with a `type` in each text message."),
    ErrorCode("too_many_errors", 1008, "never", Fatal.ALWAYS,
         "Too many messages caused errors.",
         "Fix the client before it connects again."),
    ErrorCode("rate_limited", 1008, "backoff", Fatal.WHEN_REPEATED,
         "Too many messages in a short time.",
         "Wait for `retry_after_ms`, then send more slowly."),
    ErrorCode("message_too_big", 1009, "never", Fatal.ALWAYS,
         "The message is larger than the limit.",
         "Send at most `limits.max_message_bytes`, and 16 KiB before `ready`."),
    ErrorCode("internal_error", 1011, "backoff", Fatal.BEFORE_READY,
         "The server failed. The client did nothing wrong.",
         "Try again later. The server's log has the details.", is_clients_fault=False),
    ErrorCode("server_busy", 1013, "backoff", Fatal.ALWAYS,
         "The server has too many connections.",
         "Try again later.", is_clients_fault=False),
    ErrorCode("unavailable", 1013, "backoff", Fatal.BEFORE_READY,
         "A service that the server depends on does not answer.",
         "Try again later. The token and the resource may be valid.",
         is_clients_fault=False),
    ErrorCode("heartbeat_timeout", 4000, "backoff", Fatal.ALWAYS,
         "Nothing was received from the client for too long.",
         "Connect again. Answer pings within `heartbeat.timeout_ms`."),
    ErrorCode("disconnected", 4001, "never", Fatal.ALWAYS,
         "Disconnected by an administrator.",
         "Do not connect again until the user asks to."),
    ErrorCode("superseded", 4001, "never", Fatal.ALWAYS,
         "Replaced by a newer connection of the same user.",
         "Do not connect again. The newer connection stays open."),
    ErrorCode("slow_consumer", 4002, "backoff", Fatal.ALWAYS,
         "The client did not read messages fast enough.",
         "Connect again. Read faster, or subscribe to fewer topics."),
    ErrorCode("unknown_type", None, "never", Fatal.NEVER,
         "The message type is unknown.",
         "Check the `type` against the documentation of the application."),
    ErrorCode("invalid_payload", None, "never", Fatal.NEVER,
         "The content of the message does not match its type.",
         "`message` contains the path of the invalid field."),
    ErrorCode("duplicate_id", None, "never", Fatal.NEVER,
         "A request with this id is still in flight.",
         "Use a different id for each request in flight."),
    ErrorCode("too_many_in_flight", None, "backoff", Fatal.NEVER,
         "Too many requests are in flight.",
         "Wait for answers. Keep at most `limits.max_in_flight` requests in flight."),
    ErrorCode("too_big_to_send", 1008, "never", Fatal.BEFORE_READY,
         "The answer is larger than the limit.",
         "Request less data at a time. Messages of the server have at most "
         "`limits.max_server_message_bytes`.",
         is_clients_fault=False),
    ErrorCode("not_found", None, "never", Fatal.NEVER,
         "Not found.",
         "Depends on the request."),
    ErrorCode("forbidden", None, "never", Fatal.NEVER,
         "Not allowed.",
         "Depends on the request."),
)  # fmt: skip

ERRORS: Final[dict[str, ErrorCode]] = {row.name: row for row in _ROWS}

NORMAL_CLOSURE: Final = 1000
"""RFC 6455, section 7.4.1: a normal closure."""

_POLICY_VIOLATION: Final = 1008
_PRIVATE: Final = 4000
"""RFC 6455, section 7.4.2: close codes from here on are defined by applications."""


def close_code_of(code: str) -> int:
    """The WebSocket close code for a fatal error; 1008 (policy violation) for unlisted codes."""
    row = ERRORS.get(code)
    return row.close_code if row and row.close_code is not None else 1008


def row_of_close(close_code: int, reason: str = "") -> ErrorCode | None:
    """The row of a Close frame: the one that ``reason`` names.

    If it names none, the first row with this close code, provided that all rows with this code have
    the same ``retry``. Otherwise None.
    """
    if reason in ERRORS:
        return ERRORS[reason]
    rows = [row for row in ERRORS.values() if row.close_code == close_code]
    return rows[0] if len({row.retry for row in rows}) == 1 else None


def retry_of_close(close_code: int, reason: str = "") -> Retry:
    """What a client should do after a Close frame without an `error` before it."""
    row = row_of_close(close_code, reason)
    if row is not None:
        return row.retry
    return "never" if close_code == _POLICY_VIOLATION or close_code >= _PRIVATE else "backoff"
