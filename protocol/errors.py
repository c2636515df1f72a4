"""The one table of errors: code, close code, advice. Servers, clients and the docs all read it.

A row says who should do what next, not only what went wrong: ``retry`` tells a client whether to
give up, to fetch another token, or to come back later. Close codes are those of RFC 6455,
section 7.4, and the private range 4000-4999.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, Literal, TypeAlias, get_args

import attrs

Retry: TypeAlias = Literal["never", "refresh_token", "backoff"]
RETRIES: Final[tuple[Retry, ...]] = get_args(Retry)


class Fatal(Enum):
    """When an error ends the connection."""

    ALWAYS = "always"
    BEFORE_READY = "before ready"
    WHEN_REPEATED = "when it goes on"
    NEVER = "never"


@attrs.frozen
class ErrorCode:
    """A row of the table.

    ``close_code`` is what the connection is closed with when the error is fatal, or None when it
    never is. ``message`` is the default text for people, ``advice`` what the docs tell a client's
    author to do. ``is_clients_fault``: the client could have known better; errors of which that
    cannot be said do not count towards ``too_many_errors``.
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
         "Come back after `reconnect_after_ms` of the `goaway`.", is_clients_fault=False),
    ErrorCode("restart", 1012, "backoff", Fatal.ALWAYS,
         "The server is restarting.",
         "Come back after `reconnect_after_ms` of the `goaway`.", is_clients_fault=False),
    ErrorCode("protocol_error", 1002, "never", Fatal.ALWAYS,
         "A frame broke RFC 6455.",
         "A defect of the client's WebSocket library, or of something between."),
    ErrorCode("binary_unsupported", 1003, "never", Fatal.ALWAYS,
         "Only text messages are understood here.",
         "Send JSON in text messages."),
    ErrorCode("not_utf8", 1007, "never", Fatal.ALWAYS,
         "A text message was not UTF-8.",
         "Encode text messages as UTF-8."),
    ErrorCode("auth_timeout", 1008, "backoff", Fatal.ALWAYS,
         "Authentication did not finish in time.",
         "Send `auth` as soon as `hello` has arrived; try again later."),
    ErrorCode("auth_required", 1008, "never", Fatal.ALWAYS,
         "The first message must be 'auth', and nothing else counts before 'ready'.",
         "Send `auth` first, then wait for `ready`."),
    ErrorCode("token_missing", 1008, "never", Fatal.ALWAYS,
         "No token was sent.",
         "Put the token into the `token` field of `auth`."),
    ErrorCode("token_invalid", 1008, "never", Fatal.ALWAYS,
         "The token is not valid here.",
         "Log in again; check the issuer, the audience and the key."),
    ErrorCode("token_too_big", 1008, "never", Fatal.ALWAYS,
         "The token is larger than the limit.",
         "Ask the issuer for fewer claims, such as groups, or the operator for a higher limit."),
    ErrorCode("token_expired", 1008, "refresh_token", Fatal.ALWAYS,
         "The token has expired.",
         "Fetch a new token and connect again."),
    ErrorCode("token_not_yet_valid", 1008, "backoff", Fatal.ALWAYS,
         "The token is not valid yet.",
         "Try again later; compare the clocks."),
    ErrorCode("token_revoked", 1008, "never", Fatal.ALWAYS,
         "The token has been revoked.",
         "Log in again."),
    ErrorCode("access_denied", 1008, "never", Fatal.ALWAYS,
         "Not found or access denied.",
         "The resource does not exist or is not this user's; which of the two is not told."),
    ErrorCode("session_blocked", 1008, "never", Fatal.ALWAYS,
         "The session is blocked.",
         "Tell the user; an operator has to lift it."),
    ErrorCode("bad_message", 1008, "never", Fatal.BEFORE_READY,
         "The message is not a JSON object of this protocol.",
         "Send one JSON object with a `type` per text message."),
    ErrorCode("too_many_errors", 1008, "never", Fatal.ALWAYS,
         "Too many messages were refused.",
         "Mend the client before it connects again."),
    ErrorCode("rate_limited", 1008, "backoff", Fatal.WHEN_REPEATED,
         "Too many messages in a short time.",
         "Wait `retry_after_ms`, then send more slowly."),
    ErrorCode("message_too_big", 1009, "never", Fatal.ALWAYS,
         "The message is larger than the limit.",
         "Keep to `limits.max_message_bytes`, and to 16 KiB before `ready`."),
    ErrorCode("internal_error", 1011, "backoff", Fatal.BEFORE_READY,
         "The server failed; the fault is not yours.",
         "Try again later; the server's log has the details.", is_clients_fault=False),
    ErrorCode("server_busy", 1013, "backoff", Fatal.ALWAYS,
         "The server is full.",
         "Try again later.", is_clients_fault=False),
    ErrorCode("unavailable", 1013, "backoff", Fatal.BEFORE_READY,
         "Something the server depends on does not answer.",
         "Try again later; this says nothing about the token or the resource.",
         is_clients_fault=False),
    ErrorCode("heartbeat_timeout", 4000, "backoff", Fatal.ALWAYS,
         "Nothing was heard from the client for too long.",
         "Connect again; answer pings within `heartbeat.timeout_ms`."),
    ErrorCode("disconnected", 4001, "never", Fatal.ALWAYS,
         "Disconnected by an administrator.",
         "Stay away until the user asks to connect again."),
    ErrorCode("superseded", 4001, "never", Fatal.ALWAYS,
         "Replaced by a newer connection.",
         "Stay away: the newer connection lives on."),
    ErrorCode("slow_consumer", 4002, "backoff", Fatal.ALWAYS,
         "Messages were not read fast enough.",
         "Connect again; read faster or subscribe to less."),
    ErrorCode("unknown_type", None, "never", Fatal.NEVER,
         "There is no such message type here.",
         "Compare the `type` with the server's documentation."),
    ErrorCode("invalid_payload", None, "never", Fatal.NEVER,
         "The message's content does not fit its type.",
         "`message` names the path of the field that does not fit."),
    ErrorCode("duplicate_id", None, "never", Fatal.NEVER,
         "A request with this id is still in flight.",
         "Use an id of its own for each request in flight."),
    ErrorCode("too_many_in_flight", None, "backoff", Fatal.NEVER,
         "Too many requests are in flight.",
         "Wait for answers; keep to `limits.max_in_flight`."),
    ErrorCode("too_big_to_send", 1008, "never", Fatal.BEFORE_READY,
         "What was to be sent is larger than the limit.",
         "Ask for less at a time: no message is larger than `limits.max_server_message_bytes`.",
         is_clients_fault=False),
    ErrorCode("not_found", None, "never", Fatal.NEVER,
         "There is no such thing.",
         "Depends on the request."),
    ErrorCode("forbidden", None, "never", Fatal.NEVER,
         "This is not allowed.",
         "Depends on the request."),
)  # fmt: skip

ERRORS: Final[dict[str, ErrorCode]] = {row.name: row for row in _ROWS}

NORMAL_CLOSURE: Final = 1000
"""RFC 6455, section 7.4.1: the purpose of the connection has been fulfilled."""

_POLICY_VIOLATION: Final = 1008
_PRIVATE: Final = 4000
"""RFC 6455, section 7.4.2: from here on a close code means what an application says it does."""


class Refusal(Exception):
    """A refusal that is told to the peer: raise it in a handler, an authenticator, an authorizer.

    In a handler, whether it ends the connection depends on the code: see ``fatal`` in `ERRORS`.
    `RequestError` never does, `Disconnect` always does.

    ``code`` is a row of `ERRORS` or one of the application's own (1-64 of ``a-z 0-9 _ . -``).
    ``message`` is for people and defaults to the row's. ``retry`` defaults to the row's, and to
    "never" for a code of the application's own. ``retry_after``, in seconds, goes with "backoff".

    Whatever is put into it is sent to the peer: no secrets, and nothing about other users.
    """

    def __init__(
        self,
        code: str,
        message: str | None = None,
        *,
        retry: Retry | None = None,
        retry_after: float | None = None,
    ) -> None:
        row = ERRORS.get(code)
        self.code = code
        self.message = message or (row.message if row else code)
        self.retry: Retry = retry or (row.retry if row else "never")
        self.retry_after = retry_after
        super().__init__(code, self.message)

    @property
    def is_clients_fault(self) -> bool:
        """Whether the client could have known better, as the row says; of a code that has none,
        whether trying again is of no use."""
        row = ERRORS.get(self.code)
        return self.retry == "never" if row is None else row.is_clients_fault


class RequestError(Refusal):
    """A refusal that answers one request, and leaves the connection as it is.

    Raises `ValueError` for a code that always ends the connection: say `Disconnect` if you mean it.
    """

    def __init__(
        self,
        code: str,
        message: str | None = None,
        *,
        retry: Retry | None = None,
        retry_after: float | None = None,
    ) -> None:
        row = ERRORS.get(code)
        if row is not None and row.fatal is Fatal.ALWAYS:
            raise ValueError(
                f"{code} always ends the connection; raise Disconnect({code!r}), or choose another "
                "code for the answer, such as forbidden"
            )
        super().__init__(code, message, retry=retry, retry_after=retry_after)


class TooBigToSendError(RequestError, ValueError):
    """A message of ``size`` bytes is larger than any that the server sends, which is ``limit``."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__("too_big_to_send", f"{size:,} bytes; at most {limit:,} are sent.")
        self.size = size
        self.limit = limit


class Disconnect(Refusal):
    """A refusal that ends the connection, whatever its code."""


def close_code_of(code: str) -> int:
    """The WebSocket close code for a fatal error; 1008 (policy violation) for unlisted codes."""
    row = ERRORS.get(code)
    return row.close_code if row and row.close_code is not None else 1008


def row_of_close(close_code: int, reason: str = "") -> ErrorCode | None:
    """The row that a Close frame means: the one that its ``reason`` names.

    Where the reason names none, it is the first row with this close code, if all rows with this
    code have the same ``retry``. None where the frame does not say enough.
    """
    if reason in ERRORS:
        return ERRORS[reason]
    rows = [row for row in ERRORS.values() if row.close_code == close_code]
    return rows[0] if len({row.retry for row in rows}) == 1 else None


def retry_of_close(close_code: int, reason: str = "") -> Retry:
    """What a client does after a close without an `error` before it, other than a normal one."""
    row = row_of_close(close_code, reason)
    if row is not None:
        return row.retry
    return "never" if close_code == _POLICY_VIOLATION or close_code >= _PRIVATE else "backoff"
