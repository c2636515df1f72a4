"""The exceptions that reject a request or a connection, with a code of `protocol.errors`."""

from __future__ import annotations

from protocol.errors import ERRORS, Fatal, Retry


class Refusal(Exception):
    """Rejects a request or a connection; raise it in a handler, authenticator or authorizer.

    In a handler, the code decides whether it ends the connection: see ``fatal`` in `ERRORS`.
    `RequestError` never ends it, `Disconnect` always does.

    ``code`` is a row of `ERRORS` or one of the application's own (1-64 of ``a-z 0-9 _ . -``).
    ``message`` is for people, by default that of the row. ``retry`` is by default that of the row,
    and "never" for an application's own code. ``retry_after``, in seconds, is used with "backoff".

    All of it is sent to the client. It must not contain secrets or data of other users.
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
        """Whether it counts towards ``too_many_errors``: as the row says; for an application's own
        code, if ``retry`` is "never"."""
        row = ERRORS.get(self.code)
        return self.retry == "never" if row is None else row.is_clients_fault


class RequestError(Refusal):
    """Rejects one request. The connection stays open.

    Raises `ValueError` for a code that always ends the connection; use `Disconnect` for those.
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
    """A message to a client has ``size`` bytes, which is more than ``limit``."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            "too_big_to_send", f"The answer has {size:,} bytes; the limit is {limit:,}."
        )
        self.size = size
        self.limit = limit


class Disconnect(Refusal):
    """Rejects and closes the connection, whatever the code."""
