"""What two parsers could read differently is refused before either of the others sees it.

Request smuggling lives on leniency: RFC 9112, sections 2.2, 3.2, 5.2, 6.1 and 11.2. h11 takes bare
line feeds and folded headers, and joins lengths that agree. A proxy in front of us, or h11
behind us, might do something else.
"""

from __future__ import annotations

import re
from typing import Final

from trioserver.websocket.handshake import Head, RequestRejected

_BARE: Final = re.compile(rb"\r(?!\n)|(?<!\r)\n")
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_LENGTH: Final = re.compile(rb"[0-9]{1,15}")
_AUTHORITY: Final = re.compile(r"https?://([^/?#]*)", re.IGNORECASE)
_FOLDED: Final = re.compile(rb"\r\n[ \t]")
_FRAMING: Final = re.compile(
    rb"\r\n(host|content-length|transfer-encoding|upgrade|http2-settings):[ \t]*([^\r]*)",
    re.IGNORECASE,
)
"""What says where a request ends and what follows it; none of these may be there twice."""
_OFFERS: Final = re.compile(rb"\r\n(?:upgrade|http2-settings):[^\r]*", re.IGNORECASE)


def check_head(head: Head) -> None:
    """Raise `RequestRejected` for a head that could be read in two ways."""
    if _BARE.search(head.raw):
        raise RequestRejected(400, "A line of the head does not end with CR LF.")
    if _FOLDED.search(head.raw):
        raise RequestRejected(400, "A header is folded over several lines.")
    if _CONTROL.search(head.raw):
        raise RequestRejected(400, "The head has control characters.")
    if head.http_version not in ("1.0", "1.1"):
        raise RequestRejected(505, "The server supports HTTP/1.1 only.")
    _check_framing(head)
    _check_target(head, head.raw.split(b" ", 2)[1].decode("ascii"))


def _check_framing(head: Head) -> None:
    values: dict[bytes, bytes] = {}
    for name, value in _FRAMING.findall(head.raw):
        name = name.lower()
        if name in values:
            raise RequestRejected(400, f"There is more than one header {name.decode().title()}.")
        values[name] = value.rstrip(b" \t")
    length, coding = values.get(b"content-length"), values.get(b"transfer-encoding")
    if length is not None and coding is not None:
        raise RequestRejected(400, "Content-Length and Transfer-Encoding cannot be combined.")
    if length is not None and not _LENGTH.fullmatch(length):
        raise RequestRejected(400, "Content-Length is not a number.")
    if coding is not None and (coding.lower() != b"chunked" or head.http_version != "1.1"):
        raise RequestRejected(400, "The only supported transfer coding is chunked, with HTTP/1.1.")
    if head.is_upgrade and len(head.tokens("upgrade")) > 1:
        raise RequestRejected(400, "Upgrade must be websocket and nothing else.")


def without_offers(head: Head) -> bytes:
    """The head as it came, less an upgrade that nobody here takes up: RFC 9110, section 7.8.

    To HTTP/2 or TLS, which many clients offer with each request. The parser behind this one might
    take them up, and read the rest in another way.
    """
    if "upgrade" in head.headers or "http2-settings" in head.headers:
        return _OFFERS.sub(b"", head.raw)
    return head.raw


def _check_target(head: Head, target: str) -> None:
    """``target`` as it came: a path, a URL with the same host as `Host`, or * for OPTIONS."""
    if head.method == "CONNECT":
        raise RequestRejected(405, "CONNECT is not supported: this server is not a proxy.")
    named = _AUTHORITY.match(target)
    if named is not None:
        host = head.header("host")
        if host is not None and host.lower() != named[1].lower():
            raise RequestRejected(400, "The URL and the header Host name different hosts.")
    elif not target.startswith("/") and (target, head.method) != ("*", "OPTIONS"):
        raise RequestRejected(400, "The target of the request is not a path.")
