"""The client's side of the frames, beside the codec that it takes a short cut through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioserver.client import WebSocketURL
from trioserver.load.wire import (
    MAX_HEAD_BYTES,
    MAX_MESSAGE_BYTES,
    FrameReader,
    OpeningHandshake,
    UpgradeError,
    encode_masked,
    parse_close,
)
from trioserver.websocket.frames import Control, FrameDecoder
from trioserver.websocket.headers import Opcode, encode_frame

frames = st.one_of(
    st.builds(encode_frame, st.just(Opcode.TEXT), st.text(max_size=300).map(str.encode)),
    st.builds(encode_frame, st.just(Opcode.PING), st.binary(max_size=20)),
    st.just(encode_frame(Opcode.TEXT, b"x" * 70_000)),
    st.just(b"\x01\x02ab\x80\x02cd"),  # two fragments
    st.just(b"\x81\x7e\x00\x03abc"),  # a length that should be shorter
    st.just(encode_frame(Opcode.CLOSE, b"\x03\xe8")),
    st.binary(max_size=20),
)


@given(st.lists(frames, max_size=8).map(b"".join), st.lists(st.integers(1, 400), max_size=20))
def test_the_reader_reads_what_the_codec_reads_however_it_is_cut(
    data: bytes, cuts: list[int]
) -> None:
    reader = FrameReader()
    codec = FrameDecoder(masked=False, max_message_bytes=MAX_MESSAGE_BYTES)
    read, expected = [], []
    for cut in [*cuts, len(data)]:
        piece, data = data[:cut], data[cut:]
        read += reader.receive(piece)
        expected += codec.receive(piece)
    # The short cut leaves it to the JSON decoder to refuse what is not UTF-8; beyond that point
    # the connection is over, whoever noticed.
    ends = [n for n, item in enumerate(expected) if not isinstance(item, bytes | Control)]
    closed = [n for n, item in enumerate(expected) if _is_close(item)]
    until = min([*ends, *(n + 1 for n in closed), len(expected)])
    assert read[:until] == expected[:until]


def _is_close(item: object) -> bool:
    return isinstance(item, Control) and item.opcode == Opcode.CLOSE


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536])
def test_a_server_reads_what_was_masked_here(size: int) -> None:
    codec = FrameDecoder(masked=True, max_message_bytes=MAX_MESSAGE_BYTES)
    assert codec.receive(encode_masked(b"x" * size)) == [b"x" * size]


def _answer(upgrade: OpeningHandshake, head: str = "HTTP/1.1 101 Switching Protocols\r\n") -> bytes:
    return f"{head}Upgrade: websocket\r\nSec-WebSocket-Accept: {upgrade._accept.decode()}".encode()


def test_what_follows_the_head_of_the_answer_is_not_lost() -> None:
    upgrade = OpeningHandshake(WebSocketURL.parse("ws://127.0.0.1/ws?token=x"))
    assert upgrade.request.startswith(b"GET /ws?token=x HTTP/1.1\r\nHost: 127.0.0.1\r\n")
    answer = _answer(upgrade) + b"\r\n\r\n" + encode_frame(Opcode.TEXT, b"{}")
    assert upgrade.receive(answer[:40]) is None
    assert upgrade.receive(answer[40:]) == encode_frame(Opcode.TEXT, b"{}")


@pytest.mark.parametrize(
    ("answer", "status", "retry_after"),
    [
        (b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\n\r\n", 503, 7.0),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", 404, None),
        (b"SSH-2.0-OpenSSH\r\n\r\n", None, None),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", None, None),
        (b"HTTP/1.1 101 S\r\nSec-WebSocket-Accept: wrong\r\n\r\n", None, None),
        (b"x" * (MAX_HEAD_BYTES + 1), None, None),
    ],
)
def test_what_is_no_upgrade_is_told_apart(
    answer: bytes, status: int | None, retry_after: float | None
) -> None:
    with pytest.raises(UpgradeError) as refused:
        OpeningHandshake(WebSocketURL.parse("ws://127.0.0.1/")).receive(answer)
    assert (refused.value.status, refused.value.retry_after) == (status, retry_after)


def test_a_close_without_a_code_counts_as_1005() -> None:
    assert parse_close(Control(Opcode.CLOSE, b"")) == (1005, "")
    assert parse_close(Control(Opcode.CLOSE, b"\x0f\xa2slow_consumer")) == (4002, "slow_consumer")
