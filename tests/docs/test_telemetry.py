"""docs/telemetry.md lists every log event and every metric, and nothing that does not exist."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs
import pytest

from tests.support.markdown import ROOT, blocks, output_of
from trioserver import Application, AuditConfig, Config, Observer, Server
from trioserver.telemetry.metrics.families import Families

TELEMETRY: Final = Path("docs/telemetry.md")
_LEVELS: Final = ("debug", "info", "warning", "error")
_EVENT: Final = r"[a-z]+(_[a-z]+)*"
_BOUND: Final = {"connection_id", "route", "user", "request_id"}
"""Fields that a line may have without being passed them."""


def section(title: str) -> str:
    text = (ROOT / TELEMETRY).read_text()
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def words(cell: str) -> tuple[str, ...]:
    return tuple(re.findall(r"`(\w+)`", cell))


@pytest.mark.parametrize("block", blocks(TELEMETRY, "python"))
def test_every_program_runs(block: str, tmp_path: Path) -> None:
    output_of(block, tmp_path)


# ------------------------------------------------------------------------------ events


@attrs.frozen
class Line:
    """A line that is logged somewhere; ``fields`` is None if they are not known statically."""

    event: str
    level: str | None = None
    fields: frozenset[str] | None = None
    is_open: bool = False
    """Whether it has further fields, of a mapping."""


def documented() -> list[Line]:
    row = r"^\| `(\w+)` \| (\w+) \| [^|]+ \| ([^|]*) \| [^|]+ \|$"
    return [
        Line(event, level, frozenset(words(fields)))
        for event, level, fields in re.findall(row, section("Logs"), re.M)
    ]


@functools.cache
def modules() -> list[tuple[Path, ast.Module]]:
    paths = sorted((ROOT / "trioserver").rglob("*.py"))
    return [(path, ast.parse(path.read_text())) for path in paths]


def constants(node: ast.AST | None) -> list[str]:
    """The strings that an expression may be."""
    match node:
        case ast.Constant(value=str(value)):
            return [value]
        case ast.IfExp(body=body, orelse=orelse):
            return constants(body) + constants(orelse)
    return []


def names_of(node: ast.AST) -> list[str]:
    """The strings that an expression may be, without those for events of another kind."""
    return [each for each in constants(node) if re.fullmatch(_EVENT, each)]


def parameters_named_event() -> dict[str, int]:
    """Where functions take an event: by the function's name, without `self`."""
    found: dict[str, int] = {}
    for _, module in modules():
        for node in ast.walk(module):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                names = [each.arg for each in node.args.args if each.arg != "self"]
                if "event" in names and (node.name == "may_log" or node.name.startswith("_")):
                    found[node.name] = names.index("event")
    return found | {"report_error": 1}


def is_log(node: ast.expr) -> bool:
    return re.search(r"(^|[._])log$", ast.unparse(node)) is not None


def called(call: ast.Call) -> str:
    match call.func:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
    return ""


def lines_of(module: ast.Module, events: dict[str, int]) -> Iterator[Line]:
    for node in ast.walk(module):
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                if keyword.arg == "event":
                    yield from map(Line, names_of(keyword.value))
            name = called(node)
            if isinstance(node.func, ast.Attribute) and name in _LEVELS and is_log(node.func.value):
                yield from logged(node, name)
            elif name in events and len(node.args) > events[name]:
                yield from map(Line, names_of(node.args[events[name]]))
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                yield from assigned(target, node.value)


def logged(call: ast.Call, level: str) -> Iterator[Line]:
    event = call.args[0]
    assert constants(event) or ast.unparse(event) == "event", f"no event: {ast.unparse(call)}"
    names = {each.arg for each in call.keywords}
    renamed = {"traceback": "exception", "exc_info": "exception"}
    fields = frozenset(renamed.get(each, each) for each in names if each is not None)
    for each in constants(event):
        yield Line(each, level, fields, is_open=None in names)


def assigned(target: ast.expr, value: ast.expr) -> Iterator[Line]:
    if isinstance(target, ast.Name) and target.id == "event":
        yield from map(Line, names_of(value))
    elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        for each, part in zip(target.elts, value.elts, strict=True):
            yield from assigned(each, part)


@functools.cache
def in_the_code() -> list[Line]:
    events = parameters_named_event()
    return [line for _, module in modules() for line in lines_of(module, events)]


def passed_on() -> set[str]:
    """Events that a function logs which it is passed to, with fields of its own."""
    events = parameters_named_event()
    events = {name: index for name, index in events.items() if not name.endswith("may_log")}
    lines = [line for _, module in modules() for line in lines_of(module, events)]
    return {line.event for line in lines if line.fields is None}


def test_every_log_event_is_in_the_table_and_the_table_has_no_others() -> None:
    assert {line.event for line in documented()} == {line.event for line in in_the_code()}


def test_the_table_of_events_has_the_level_and_the_fields_of_the_code() -> None:
    code, elsewhere = in_the_code(), passed_on()
    for row in documented():
        assert row.fields is not None
        lines = [line for line in code if line.event == row.event and line.fields is not None]
        assert {line.level for line in lines} <= {row.level}, row.event
        fields = frozenset[str]().union(*(line.fields or () for line in lines))
        assert fields <= row.fields, row.event
        if lines and row.event not in elsewhere and not any(line.is_open for line in lines):
            assert row.fields - fields <= _BOUND, row.event


def test_the_tables_of_events_are_sorted_and_have_no_event_twice() -> None:
    names = [line.event for line in documented()]
    assert len(set(names)) == len(names)
    tables = re.findall(r"(?:^\| `\w+` \| .*\n)+", section("Logs"), re.M)
    assert len(tables) == 2
    for table in tables:
        rows = re.findall(r"^\| `(\w+)`", table, re.M)
        assert rows == sorted(rows)


def test_there_is_one_logger_and_events_are_snake_case() -> None:
    for path, module in modules():
        for node in ast.walk(module):
            if isinstance(node, ast.Call) and called(node) in ("get_logger", "getLogger"):
                if path.name == "setup.py":
                    continue  # it configures other libraries' loggers
                assert [ast.unparse(each) for each in node.args] == ["'trioserver'"], path
    for line in in_the_code():
        assert re.fullmatch(_EVENT, line.event), line.event


# ------------------------------------------------------------------------------ metrics


async def test_every_metric_is_in_the_table_and_the_table_has_no_others(tmp_path: Path) -> None:
    audit = AuditConfig(database=str(tmp_path / "audit.db"))
    server = Server(Application(), Config(port=0, audit=audit))
    rendered = {
        (
            family.name + ("_total" if family.type == "counter" else ""),
            family.type,
            tuple(getattr(family, "_labelnames", ())),
        )
        for family in Families(
            server.metrics, server.statistics(), server.connection_totals_nowait()
        ).collect()
    }
    row = r"^\| `(trioserver_\w+)` \| (\w+) \| ([^|]*) \| [^|]+ \|$"
    rows = re.findall(row, section("Metrics"), re.M)
    assert {(name, kind, words(labels)) for name, kind, labels in rows} == rendered


def test_every_metric_has_a_unit_as_prometheus_writes_it() -> None:
    for name, kind in re.findall(r"^\| `(trioserver_\w+)` \| (\w+) \|", section("Metrics"), re.M):
        assert name.endswith("_total") == (kind == "counter"), name
        assert name.endswith("_seconds") or kind != "histogram", name


# ------------------------------------------------------------------------------ observers


def test_every_callback_of_observers_is_in_the_table() -> None:
    rows = re.findall(r"^\| `(\w+)\(", section("Observers"), re.M)
    assert rows == [name for name in vars(Observer) if name.startswith("on_")]
