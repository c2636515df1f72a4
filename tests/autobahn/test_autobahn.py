"""Conformance to RFC 6455, as Autobahn's fuzzing client sees it, on each way of reading."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.autobahn.fuzz import fuzz
from tests.autobahn.report import complaints
from tests.autobahn.suite import WSTEST


@pytest.mark.skipif(not WSTEST.exists(), reason="needs Autobahn's test suite: make autobahn")
async def test_no_case_is_worse_than_with_trio_websocket(tmp_path: Path) -> None:
    results = await fuzz(tmp_path)
    assert [complaint for each in results.values() for complaint in complaints(each)] == []
