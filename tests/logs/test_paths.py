"""Paths in log lines, audit rows and views: readable, unless they may hold a token."""

from __future__ import annotations

import base64
import uuid
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioserver.auth import make_secret, make_token
from trioserver.logs.paths import MAX_CHARACTERS, masked_parameters, masked_path

TOKEN = make_token(make_secret(), subject="alice")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/ws/conversations/1",
        "/api/v1/ws/behavior/device001",
        "/ws/conversations/6f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0",
        "/ws/things/a-long-name-that-somebody-gave-it-in-2024",
        "/ws/things/Straße_der_Bäume.und_der_Wälder",
        "/ws/rooms/18446744073709551615",
        "/ws/rooms/01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "/ws/rooms/507f1f77bcf86cd799439011",
        "/ws/rooms/6F1E2D3C-4B5A-6978-8796-A5B4C3D2E1F0/people",
        "/api/v1/admin/connections",
        "/ws/things/V1StGXR8_Z5jdHi6B-my",
    ],
)
def test_what_names_a_thing_is_told(path: str) -> None:
    assert masked_path(path) == path


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        (f"/ws/{TOKEN}", "/ws/eyJh***"),
        (f"/ws/{TOKEN}/events", "/ws/eyJh***/events"),
        (f"/{TOKEN}", "/eyJh***"),
        (TOKEN, "eyJh***"),
        ("/ws/Bearer%20" + TOKEN, "/ws/Bear***"),
        ("/ws/token=short", "/ws/token=***"),
        ("/ws/1?token=short", "/ws/1?token=***"),
        ("/ws/1;token=short&x=1", "/ws/1;token=***&x=***"),
        ("/ws/" + "a1" * 20, "/ws/a1a1***"),
        ("/ws/" + "x" * 2000, "/ws/xxxx***"),
        ("/ws/Ab3+/x9Y/" + "Q2w" * 10 + "/events", "/ws/***/***/Q2wQ***/events"),
    ],
)
def test_what_may_be_a_token_is_masked(path: str, shown: str) -> None:
    assert masked_path(path) == shown


def pieces_in(token: str, shown: str) -> list[str]:
    return [token[at : at + 16] for at in range(len(token) - 15) if token[at : at + 16] in shown]


@pytest.mark.parametrize("path", ["/ws/{}", "/ws/{}/events", "/{}?a=b"])
def test_no_sixteen_characters_of_a_random_token_are_told(path: str) -> None:
    random = Random(5)
    for size in [*range(18, 98)] * 10:
        data = random.randbytes(size)
        for token in (
            base64.urlsafe_b64encode(data).decode(),
            base64.b64encode(data).decode(),
            data.hex(),
        ):
            assert pieces_in(token, masked_path(path.format(token))) == [], token


@given(st.text(max_size=3000))
def test_any_path_is_cut(path: str) -> None:
    assert len(masked_path(path)) <= MAX_CHARACTERS


def test_parameters_are_masked_one_by_one() -> None:
    id = str(uuid.uuid4())
    assert masked_parameters({"id": id, "token": TOKEN}) == {"id": id, "token": "eyJh***"}
