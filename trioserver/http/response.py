"""Turn the ASGI messages of a response into the bytes of HTTP/1.1. Does no I/O."""

from __future__ import annotations

from email.utils import formatdate
from typing import Final

import h11
from starlette.types import Message

_Header = tuple[bytes, bytes]

_WITHOUT_BODY: Final = (204, 304)
"""Statuses of responses that have no body, whatever the application sends."""


class ResponseEncoder:
    """Encodes one response. ``parser`` has parsed the head of the request that it answers.

    ``status`` is 0 until the response has started.
    """

    def __init__(self, parser: h11.Connection, *, method: str) -> None:
        self.status = 0
        self.is_complete = False
        self._parser = parser
        self._is_head = method == "HEAD"

    @property
    def is_started(self) -> bool:
        """Whether the head was encoded, so that no other response can be given."""
        return self.status != 0

    @property
    def keeps_alive(self) -> bool:
        """Whether another request may follow: request and response are complete, and neither side
        has asked to close."""
        return self._parser.our_state is self._parser.their_state is h11.DONE

    def encode_continue(self) -> bytes:
        """Return an interim response 100 if the client waits for one, else nothing."""
        if not self._parser.they_are_waiting_for_100_continue:
            return b""
        return self._send(h11.InformationalResponse(status_code=100, headers=[_date()]))

    def encode(self, message: Message, *, closes: bool) -> bytes:
        """Return the bytes of one ASGI message. ``closes``: announce that the connection closes.

        Raises an exception for a message that is invalid or out of order; nothing of it is sent.
        """
        kind = message["type"]
        if kind == "http.response.start" and not self.is_started:
            return self._start(message, closes)
        if kind == "http.response.body" and self.is_started and not self.is_complete:
            return self._body(message)
        raise RuntimeError(f"unexpected ASGI message {kind!r} in this state of the response")

    def _start(self, message: Message, closes: bool) -> bytes:
        # `bytes` refuses text; h11 refuses line breaks and other invalid characters.
        headers = [(bytes(k).strip(), bytes(v).strip()) for k, v in message.get("headers", ())]
        headers.append(_date())
        if closes:
            headers.append((b"connection", b"close"))
        status = int(message["status"])
        data = self._send(h11.Response(status_code=status, headers=headers))
        self.status = status
        return data

    def _body(self, message: Message) -> bytes:
        data = b""
        body = message.get("body", b"")
        if body and not self._is_head and self.status not in _WITHOUT_BODY:
            data = self._send(h11.Data(data=bytes(body)))
        if not message.get("more_body", False):
            data += self._send(h11.EndOfMessage())
            self.is_complete = True
        return data

    def _send(self, event: h11.Event) -> bytes:
        return self._parser.send(event) or b""


def _date() -> _Header:
    return b"date", formatdate(usegmt=True).encode("ascii")
