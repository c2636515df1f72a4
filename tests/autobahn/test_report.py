"""What counts as good enough in Autobahn's report."""

from __future__ import annotations

import pytest

from tests.autobahn.report import CASES, Result, complaints, read_report, table


@pytest.mark.parametrize(
    ("result", "good"),
    [
        (Result("1.1.1", "OK", "OK"), True),
        (Result("7.1.6", "INFORMATIONAL", "INFORMATIONAL"), True),
        (Result("3.2", "NON-STRICT", "OK"), True),
        (Result("6.4.3", "NON-STRICT", "OK"), False),
        (Result("1.1.1", "FAILED", "OK"), False),
        (Result("1.1.1", "OK", "UNCLEAN"), False),
        (Result("3.2", "NON-STRICT", "WRONG CODE"), False),
        (Result("9.1.1", "UNIMPLEMENTED", "OK"), False),
    ],
)
def test_a_result_is_good_when_trio_websocket_has_none_better(result: Result, good: bool) -> None:
    assert result.is_good is good


def test_a_report_is_read_in_the_order_of_the_cases() -> None:
    told = {"behavior": "OK", "behaviorClose": "OK"}
    results = read_report({"10.1.1": told, "2.10": told, "2.9": told})
    assert [result.case for result in results] == ["2.9", "2.10", "10.1.1"]


def test_cases_that_were_not_run_are_complained_of() -> None:
    good = Result("1.1.1", "OK", "OK")
    assert complaints([good] * CASES) == []
    assert complaints([good]) == [f"1 cases were run, and there are {CASES}"]


def test_the_table_counts_by_group_and_names_what_is_not_ok() -> None:
    results = [Result("1.1.1", "OK", "OK"), Result("10.1.1", "FAILED", "OK")]
    text = list(table(results))
    lines = [line.split() for line in text]
    assert ["1", "Framing", "1", "-", "-", "-"] in lines
    assert ["10", "Auto-fragmentation", "-", "-", "-", "1"] in lines
    assert ["all", "1", "-", "-", "1"] in lines
    assert text[-1] == "10.1.1 is FAILED, its close OK: worse than trio-websocket"
