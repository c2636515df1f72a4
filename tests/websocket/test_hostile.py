"""Hostile bytes through frames and session, as a server takes them: nothing undocumented comes out.

Good streams are spoilt in the places that decoders trip over: lengths, opcodes, reserved bits,
masks, UTF-8, JSON. Each input is told by its number, so that a failure can be had again.
"""

from __future__ import annotations

import random

import pytest

from protocol import ERRORS, ProtocolOptions, ServerProtocol, ServerState
from tests.websocket.peer import frame
from trioserver.websocket.frames import Binary, Control, FrameDecoder, Violation
from trioserver.websocket.headers import Opcode

LIMIT = 4096
LENGTHS = (
    0,
    1,
    2,
    5,
    124,
    125,
    126,
    127,
    300,
    LIMIT,
    LIMIT + 1,
    65535,
    65536,
    2**31,
    2**63,
    2**64 - 1,
)
TEXTS = (
    b'{"type":"auth","token":"x"}',
    b'{"type":"note","id":1,"data":{"text":"tree"}}',
    b'{"type":"subscribe","topics":["a"]}',
    b'{"type":"ping","id":"\\ud800"}',
    b'{"type":"cancel","id":1}',
    b'{"type":"note","data":' + b"[" * 200 + b"]" * 200 + b"}",
    b'{"type":"note","id":1e999}',
    b'{"type":"note","type":"auth","token":null}',
    '{"type":"n\u00f6te"}'.encode(),
    b"\xed\xa0\x80\xff",
    b"null",
    b"",
)


class Hostile:
    """Makes input number n, always the same."""

    def __init__(self, number: int) -> None:
        self.random = random.Random(number)

    def stream(self, *, masked: bool) -> bytes:
        parts = [self.frame(masked=masked) for _ in range(self.random.randrange(1, 5))]
        return self.spoil(b"".join(parts))

    def frame(self, *, masked: bool) -> bytes:
        choose = self.random.choice
        opcode = choose((1, 1, 1, 0, 0, 2, 8, 9, 10, self.random.randrange(16)))
        payload = choose((*TEXTS, self.random.randbytes(self.random.randrange(140))))
        lies = self.random.random() < 0.1
        length = choose(LENGTHS) if lies else len(payload)
        return frame(
            opcode,
            payload,
            final=self.random.random() < 0.7,
            reserved=choose((0, 0, 0, 0, 0, self.random.randrange(8))),
            masked=masked if self.random.random() < 0.97 else not masked,
            mask=self.random.randbytes(4),
            length=length,
            form=choose((2, 8)) if lies and length < 2**16 else None,
        )

    def spoil(self, data: bytes) -> bytes:
        spoilt = bytearray(data)
        for _ in range(self.random.choice((0, 0, 1, 1, 2, 8))):
            if spoilt:
                spoilt[self.random.randrange(len(spoilt))] ^= 1 << self.random.randrange(8)
        cut = self.random.random() < 0.2
        return bytes(spoilt[: self.random.randrange(len(spoilt) + 1)] if cut else spoilt)

    def pieces(self, data: bytes) -> list[bytes]:
        step = self.random.choice((len(data) or 1, 1, 2, 7, 64))
        return [data[start : start + step] for start in range(0, len(data), step)]


def judge(number: int) -> set[str]:
    """The codes that came out. Raises `AssertionError` where one is not documented."""
    hostile = Hostile(number)
    masked = number % 2 == 0
    decoder = FrameDecoder(masked=masked, max_message_bytes=LIMIT, binary=number % 3 == 0)
    session = ServerProtocol(ProtocolOptions(max_message_bytes=LIMIT), 0.0)
    if number % 5:
        _make_ready(session)
    else:
        session.start()
    codes: set[str] = set()
    for piece in hostile.pieces(hostile.stream(masked=masked)):
        for item in decoder.receive(piece):
            if isinstance(item, Violation):
                assert ERRORS[item.code].close_code in (1002, 1003, 1007, 1009)
                assert not codes, "the first one is told, and no other"
                codes.add(item.code)
            elif isinstance(item, Control):
                assert item.opcode in (Opcode.CLOSE, Opcode.PING, Opcode.PONG)
                assert len(item.payload) <= 125
            else:
                assert not codes, "no message comes out behind a violation"
                assert len(item) <= LIMIT
                if not isinstance(item, Binary):
                    session.receive(item, 0.0)
    if session.state is ServerState.CLOSED:
        assert session.close is not None
        assert session.close.reason in ERRORS
        codes.add(session.close.reason)
    return codes


def _make_ready(session: ServerProtocol) -> None:
    session.start()
    session.receive(b'{"type":"auth","token":"x"}', 0.0)
    session.accept_auth(
        now=0.0,
        wall=1_900_000_000.0,
        connection_id="c",
        user={"id": "alice"},
        resource={},
        expires_at=None,
    )


def test_what_is_hostile_is_told_by_documented_codes() -> None:
    seen = set().union(*map(judge, range(20_000)))
    assert seen >= {"protocol_error", "not_utf8", "message_too_big", "binary_unsupported"}


@pytest.mark.attack
def test_a_million_hostile_inputs_raise_nothing_undocumented() -> None:
    for number in range(1_000_000):
        judge(number)
