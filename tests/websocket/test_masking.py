"""Masking, in C and in Python: the same bytes."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trioserver.websocket import masking

Mask = Callable[[bytes, bytes], bytes]

WAYS = pytest.mark.parametrize(
    "apply_mask", [masking.apply_mask_in_python, masking.apply_mask], ids=["python", "fastest"]
)


@WAYS
@settings(deadline=None)
@given(payload=st.binary(max_size=70_000), mask=st.binary(min_size=4, max_size=4))
def test_masking_is_what_the_rfc_says_and_undoes_itself(
    apply_mask: Mask, payload: bytes, mask: bytes
) -> None:
    masked = apply_mask(payload, mask)
    assert masked == bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    assert apply_mask(masked, mask) == payload


def test_it_is_done_in_c_where_that_is_installed() -> None:
    speedups = pytest.importorskip("websockets.speedups")
    assert masking.apply_mask is speedups.apply_mask


def test_it_is_done_in_python_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "websockets.speedups", None)  # importing it fails
    try:
        reloaded = importlib.reload(masking)
        assert reloaded.apply_mask is reloaded.apply_mask_in_python
    finally:
        monkeypatch.undo()
        importlib.reload(masking)
