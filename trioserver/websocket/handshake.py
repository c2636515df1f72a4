"""The opening handshake: the head of a request is read once, checked, and answered or handed on.

RFC 6455, section 4.2. What is refused is refused with a plain HTTP response, before any
WebSocket exists.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from sys import intern
from typing import Final
from urllib.parse import parse_qsl, unquote, unquote_to_bytes

import attrs
import h11
import trio

from trioserver.websocket.multi_values import QueryParams

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_END_OF_HEAD: Final = b"\r\n\r\n"
_RECEIVE_BYTES: Final = 16 * 1024
_READS_OF_A_HEAD: Final = 32
_BETWEEN_READS: Final = 0.02
"""A head that comes in more pieces is read at this pace, in seconds: the pieces then come together,
where each byte would else be a read of its own."""

_LINGER: Final = 1.0  # seconds; closing on unread input would reset the response away
_MAX_HEADERS: Final = 128
"""Header lines of a request. The parser takes a tenth of a second for three thousand."""

_MAX_ELEMENTS: Final = 128
"""Elements of a list in a header, and parameters of a query, where a WebSocket is asked for."""

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.6.2
_ORIGIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?]*")
_CONTROL_CHARACTER: Final = re.compile(r"[\x00-\x1f\x7f]")


class RequestRejected(Exception):
    """The request is answered with this HTTP status; ``reason`` says what to do about it."""

    def __init__(self, status: int, reason: str, headers: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason
        self.headers = headers


class ClientDisconnected(Exception):
    """The peer left before the head of its request was complete; TLS may be the cause."""


@attrs.frozen(kw_only=True)
class Head:
    """A request's head. ``headers`` keeps every value. ``trailing_data`` are the bytes after it.

    ``target`` is in origin form: a scheme and a host in front of the path are left out. ``raw`` is
    the head as it came, with the empty line at its end.
    """

    method: str
    target: str = attrs.field(repr=False)
    http_version: str = "1.1"
    headers: Mapping[str, tuple[str, ...]] = attrs.field(repr=False)
    trailing_data: bytes = attrs.field(default=b"", repr=False)
    raw: bytes = attrs.field(default=b"", repr=False)

    @property
    def path(self) -> str:
        """The path, percent-decoded; what is not UTF-8 is replaced."""
        return unquote(self.target.partition("?")[0])

    @property
    def query(self) -> QueryParams:
        """The query. Empty if it has too many parameters, which `check_upgrade` rejects: reading
        7,900 of them takes 30 ms."""
        if self.target.count("&") >= _MAX_ELEMENTS:
            return QueryParams()
        return QueryParams(parse_qsl(self.target.partition("?")[2], keep_blank_values=True))

    @property
    def header_pairs(self) -> Iterator[tuple[str, str]]:
        """All headers, one pair for each value."""
        return ((name, value) for name, values in self.headers.items() for value in values)

    def header(self, name: str) -> str | None:
        """The first value of a header, named in lower case."""
        values = self.headers.get(name)
        return values[0] if values else None

    def tokens(self, name: str) -> list[str]:
        """A comma-separated header's elements, over all its lines."""
        return [
            token
            for line in self.headers.get(name, ())
            for token in map(str.strip, line.split(","))
        ]

    @property
    def is_upgrade(self) -> bool:
        """Whether this asks for a WebSocket, well or badly."""
        return any(token.lower() == "websocket" for token in self.tokens("upgrade"))


async def read_head(stream: trio.abc.ReceiveStream, *, max_bytes: int, begun: bytes = b"") -> Head:
    """Read up to the end of the head. Raises `RequestRejected`, `ClientDisconnected`.

    ``begun`` is what has been read already. Linear in the input however slowly it comes.
    Cancelling this loses what was read.
    """
    buffer = bytearray(begun)
    searched = reads = 0
    while (end := buffer.find(_END_OF_HEAD, searched)) < 0:
        if len(buffer) > max_bytes:
            raise RequestRejected(431, "The head of the request is too large.")
        searched = max(0, len(buffer) - len(_END_OF_HEAD))
        reads += 1
        if reads > _READS_OF_A_HEAD:
            await trio.sleep(_BETWEEN_READS)
        buffer += await _receive(stream)
    end += len(_END_OF_HEAD)
    if end > max_bytes:
        raise RequestRejected(431, "The head of the request is too large.")
    return _parse(bytes(buffer[:end]), bytes(buffer[end:]))


async def _receive(stream: trio.abc.ReceiveStream) -> bytes:
    try:
        data = await stream.receive_some(_RECEIVE_BYTES)
    except trio.BrokenResourceError as error:
        raise ClientDisconnected from error.__cause__
    if not data:
        raise ClientDisconnected
    return bytes(data)


def _parse(head: bytes, trailing_data: bytes) -> Head:
    if head.count(b"\n") > _MAX_HEADERS + 2:  # with the request line, and the empty one
        raise RequestRejected(431, f"The request has more than {_MAX_HEADERS} headers.")
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=len(head) + 1)
    try:
        parser.receive_data(head)
        event = parser.next_event()
    except h11.RemoteProtocolError as error:
        raise RequestRejected(
            error.error_status_hint, "This is not a valid HTTP/1.1 request."
        ) from None
    if not isinstance(event, h11.Request):
        raise RequestRejected(400, "This is not a valid HTTP/1.1 request.")
    headers: dict[str, list[str]] = {}
    for name, value in event.headers:
        # The names are the same in thousands of requests: one text for all of them.
        headers.setdefault(intern(name.decode("ascii")), []).append(value.decode("latin-1"))
    return Head(
        method=event.method.decode("ascii"),
        target=_origin_form(event.target.decode("ascii")),
        http_version=event.http_version.decode("ascii"),
        headers={name: tuple(values) for name, values in headers.items()},
        trailing_data=trailing_data,
        raw=head,
    )


def _origin_form(target: str) -> str:
    """The target without scheme and host; RFC 9112, section 3.2.2."""
    origin = _ORIGIN.match(target)
    if origin is None:
        return target
    rest = target[origin.end() :]
    return rest if rest.startswith("/") else f"/{rest}"


def check_upgrade(head: Head) -> None:
    """Raise `RequestRejected` unless this is a valid opening handshake (section 4.2.1)."""
    if not head.is_upgrade:
        raise RequestRejected(
            426,
            "This address speaks WebSocket. Connect with a WebSocket client, to ws:// or wss://.",
            [("Upgrade", "websocket")],
        )
    if head.method != "GET":
        raise RequestRejected(405, "A WebSocket is opened with GET.", [("Allow", "GET")])
    if head.http_version != "1.1":
        raise RequestRejected(
            400, "A WebSocket is opened with HTTP/1.1. Does a proxy speak an older one?"
        )
    if head.target.count("&") >= _MAX_ELEMENTS or any(
        "".join(head.headers.get(name, ())).count(",") >= _MAX_ELEMENTS
        for name in ("connection", "sec-websocket-protocol", "sec-websocket-extensions")
    ):
        raise RequestRejected(400, "The query or a header has too many elements.")
    if not _is_clean_path(head.target):
        raise RequestRejected(400, "The path must be UTF-8, without control characters.")
    if len(head.headers["upgrade"]) > 1 or len(head.headers.get("host", ())) != 1:
        raise RequestRejected(400, "There must be one Host and one Upgrade header.")
    if not any(token.lower() == "upgrade" for token in head.tokens("connection")):
        raise RequestRejected(
            400, "The header 'Connection: Upgrade' is missing. Does a proxy remove it?"
        )
    # Some clients say of every request without a body how long that is (RFC 9110, section 8.6).
    has_length = head.headers.get("content-length", ("0",)) != ("0",)
    if has_length or "transfer-encoding" in head.headers:
        raise RequestRejected(400, "An opening handshake has no body.")
    if head.headers.get("sec-websocket-version") != ("13",):
        raise RequestRejected(
            426,
            "The only supported WebSocket version is 13.",
            [("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")],
        )
    key = head.headers.get("sec-websocket-key", ())
    if len(key) != 1 or not _is_key(key[0]):
        raise RequestRejected(400, "There must be one valid Sec-WebSocket-Key header.")


def _is_clean_path(target: str) -> bool:
    try:
        path = unquote_to_bytes(target.partition("?")[0]).decode()
    except UnicodeDecodeError:
        return False
    return _CONTROL_CHARACTER.search(path) is None


def _is_key(key: str) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


def switching_protocols_response(head: Head, subprotocol: str | None) -> bytes:
    """The answer to a valid opening handshake (section 4.2.2); no extension is accepted."""
    key = head.headers["sec-websocket-key"][0].encode("ascii")
    accept = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept.decode('ascii')}",
    ]
    if subprotocol is not None:
        lines.append(f"Sec-WebSocket-Protocol: {subprotocol}")
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def subprotocols(head: Head) -> tuple[str, ...]:
    """The subprotocols on offer that are well-formed."""
    return tuple(filter(_TOKEN.fullmatch, head.tokens("sec-websocket-protocol")))


async def refuse(stream: trio.abc.Stream, refused: RequestRejected) -> None:
    """Answer with a refusal and close. Returns within a second or two, whatever the peer does."""
    body = (refused.reason + "\n").encode()
    upgrade = any(name == "Upgrade" for name, _ in refused.headers)
    headers = [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        ("Connection", "close, Upgrade" if upgrade else "close"),
        *refused.headers,
    ]
    parser = h11.Connection(h11.SERVER)
    response = h11.Response(
        status_code=refused.status, headers=headers, reason=HTTPStatus(refused.status).phrase
    )
    answer = (parser.send(response) or b"") + body
    with trio.move_on_after(_LINGER):
        try:
            await stream.send_all(answer)
            await linger(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass


async def linger(stream: trio.abc.Stream) -> None:
    """Say that nothing more comes, then read until the peer says the same."""
    if isinstance(stream, trio.abc.HalfCloseableStream):
        await stream.send_eof()
    while await stream.receive_some(_RECEIVE_BYTES):
        pass
