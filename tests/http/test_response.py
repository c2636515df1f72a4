"""ASGI messages as the bytes of HTTP/1.1, without a connection."""

from __future__ import annotations

from typing import Any

import h11
import pytest

from trioserver.http.response import ResponseEncoder

START = {"type": "http.response.start", "status": 200, "headers": []}
FIXED = {**START, "headers": [(b"content-length", b"5")]}
BODY = {"type": "http.response.body", "body": b"hello"}


def encoder_for(
    method: str = "GET", version: str = "1.1", headers: str = "", body: bytes = b""
) -> ResponseEncoder:
    parser = h11.Connection(h11.SERVER)
    head = f"{method} / HTTP/{version}\r\nHost: x\r\n{headers}\r\n"
    parser.receive_data(head.encode() + body)
    while parser.next_event() is not h11.NEED_DATA and parser.their_state is h11.SEND_BODY:
        pass
    return ResponseEncoder(parser, method=method)


def encode(encoder: ResponseEncoder, *messages: Any, closes: bool = False) -> tuple[bytes, bytes]:
    """The head in lower case, and the body as it is sent."""
    data = b"".join(encoder.encode(message, closes=closes) for message in messages)
    head, _, body = data.partition(b"\r\n\r\n")
    return head.lower(), body


def test_a_response_with_a_length_is_sent_as_it_is() -> None:
    encoder = encoder_for()
    head, body = encode(encoder, FIXED, BODY)
    assert head.startswith(b"http/1.1 200 ")
    assert b"\r\ncontent-length: 5" in head
    assert b"\r\ndate: " in head
    assert body == b"hello"
    assert encoder.is_complete
    assert encoder.keeps_alive


def test_a_response_without_a_length_is_chunked() -> None:
    head, body = encode(encoder_for(), START, {**BODY, "more_body": True}, BODY)
    assert b"\r\ntransfer-encoding: chunked" in head
    assert body == b"5\r\nhello\r\n5\r\nhello\r\n0\r\n\r\n"


def test_a_response_to_http_1_0_ends_with_the_connection() -> None:
    encoder = encoder_for(version="1.0")
    head, body = encode(encoder, START, BODY)
    assert b"transfer-encoding" not in head
    assert body == b"hello"
    assert not encoder.keeps_alive


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_a_response_that_has_no_body_drops_what_the_application_sends(
    method: str, status: int
) -> None:
    encoder = encoder_for(method)
    head, body = encode(encoder, {**FIXED, "status": status}, BODY)
    assert b"content-length: 5" in head
    assert body == b""
    assert encoder.keeps_alive


def test_a_response_that_closes_says_so() -> None:
    encoder = encoder_for()
    head, _ = encode(encoder, FIXED, BODY, closes=True)
    assert b"\r\nconnection: close" in head
    assert not encoder.keeps_alive


def test_a_client_that_asks_to_close_is_not_kept() -> None:
    encoder = encoder_for(headers="Connection: close\r\n")
    head, _ = encode(encoder, FIXED, BODY)
    assert b"\r\nconnection: close" in head
    assert not encoder.keeps_alive


def test_a_connection_is_not_kept_before_the_whole_request_has_arrived() -> None:
    encoder = encoder_for("POST", headers="Content-Length: 5\r\n", body=b"hel")
    encode(encoder, FIXED, BODY)
    assert not encoder.keeps_alive


def test_100_is_sent_once_and_only_to_a_client_that_waits_for_it() -> None:
    encoder = encoder_for("POST", headers="Content-Length: 5\r\nExpect: 100-continue\r\n")
    assert encoder.encode_continue().startswith(b"HTTP/1.1 100 ")
    assert encoder.encode_continue() == b""
    assert encoder_for("POST", headers="Content-Length: 5\r\n").encode_continue() == b""


@pytest.mark.parametrize(
    "messages",
    [
        [BODY],
        [START, START],
        [FIXED, BODY, BODY],
        [{"type": "http.response.trailers"}],
        [{**START, "status": 99}],
        [{**START, "status": 103}],
        [{**START, "headers": [("x", "a")]}],
        [{**START, "headers": [(b"x", b"a\r\nb: c")]}],
        [{**START, "headers": [(b"x y", b"a")]}],
        [{**START, "headers": [(b":status", b"200")]}],
        [FIXED, {**BODY, "body": b"more than that"}],
        [FIXED, {**BODY, "body": b"less"}],
    ],
)
def test_a_message_that_is_invalid_or_out_of_order_raises(messages: list[Any]) -> None:
    *good, bad = messages
    encoder = encoder_for()
    encode(encoder, *good)
    with pytest.raises((TypeError, RuntimeError, h11.LocalProtocolError)):
        encoder.encode(bad, closes=False)
