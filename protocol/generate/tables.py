"""The parts of ``docs/protocol.md`` that are made from the code, in Markdown and Mermaid."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, Final

from protocol.errors import ERRORS, NORMAL_CLOSURE, Fatal, retry_of_close
from protocol.generate.descriptions import EXAMPLES
from protocol.generate.schema import (
    CLIENT,
    MESSAGES,
    PARTS,
    SERVER,
    components,
    describe,
    summary,
    type_name,
)
from protocol.states import (
    CLIENT_TABLE,
    SERVER_TABLE,
    ClientState,
    ClientTrigger,
    Hold,
    ServerState,
)

_LINE: Final = 96
"""Characters of an example that fit on one line."""

_MARKED: Final = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- /generated -->)", re.DOTALL)


def splice(text: str) -> str:
    """Put what is generated between the markers. Raises `KeyError` for an unknown marker."""
    return _MARKED.sub(lambda found: found[1] + _PARTS[found[2]] + found[3], text)


def error_table() -> str:
    """All codes, by close code, with the advice for a client's author."""
    rows = (
        (
            f"`{row.name}`",
            _close(row.close_code),
            row.retry,
            row.fatal.value,
            row.message,
            row.advice,
        )
        for row in ERRORS.values()
    )
    return _table(("code", "close", "`retry`", "fatal", "meaning", "what to do"), rows)


def close_table() -> str:
    """The same, turned around: what a close code can mean."""
    reasons: dict[int, list[str]] = {NORMAL_CLOSURE: ["(normal)"]}
    for row in ERRORS.values():
        if row.close_code is not None:
            reasons.setdefault(row.close_code, []).append(f"`{row.name}`")
    return _table(
        ("close code", "reasons", "`retry` without a reason"),
        ((str(code), ", ".join(reasons[code]), _without_reason(code)) for code in sorted(reasons)),
    )


def _without_reason(code: int) -> str:
    return "-" if code == NORMAL_CLOSURE else retry_of_close(code)


def message_table() -> str:
    """All messages at a glance."""
    schemas = components("{name}")
    rows = (
        (
            _side(struct),
            f"`{type_name(struct)}`",
            _fields(schemas[struct.__name__]),
            summary(struct),
        )
        for struct in MESSAGES
    )
    return _table(("from", "`type`", "fields (? = may be absent)", "meaning"), rows)


def message_reference() -> str:
    """Each message with its fields and an example."""
    schemas = components("{name}")
    sections = []
    for struct in (*MESSAGES, *PARTS):
        name = struct.__name__
        title = f"`{type_name(struct)}`, from {_side(struct)}" if struct in MESSAGES else f"{name}"
        part = f"### {title}\n\n{summary(struct)}\n\n" + _field_table(struct, schemas[name])
        if name in EXAMPLES:
            part += f"\n```json\n{_example(EXAMPLES[name])}\n```\n"
        sections.append(part)
    return "\n".join(sections)


def server_diagram() -> str:
    """The server's table. An error that is always fatal leads to the end."""
    transitions = (
        (state, _target(state, outcome), trigger.value, outcome)
        for (state, trigger), outcome in SERVER_TABLE.items()
        if state is not ServerState.CLOSED
    )
    return _diagram(ServerState.OPENING, ServerState.CLOSED, transitions)


def client_diagram() -> str:
    """The client's table, without what the caller must not do: that changes nothing."""
    transitions = (
        (state, _target(state, outcome), trigger.value, outcome)
        for (state, trigger), outcome in CLIENT_TABLE.items()
        if state is not ClientState.CLOSED
        and not (
            isinstance(outcome, str) and trigger in (ClientTrigger.AUTHENTICATE, ClientTrigger.SEND)
        )
    )
    return _diagram(ClientState.CONNECTED, ClientState.CLOSED, transitions)


def _target(state: Enum, outcome: object) -> Enum:
    if not isinstance(outcome, str):
        return state if outcome is Hold.HOLD or not isinstance(outcome, Enum) else outcome
    return type(state)["CLOSED"] if ERRORS[outcome].fatal is Fatal.ALWAYS else state


def _diagram(first: Enum, last: Enum, transitions: Iterable[tuple[Enum, Enum, str, object]]) -> str:
    labels: dict[tuple[Enum, Enum], list[str]] = {}
    for state, target, trigger, outcome in transitions:
        told = trigger.replace(";", ",")
        if isinstance(outcome, str):
            told += f" ({outcome})"
        elif outcome is Hold.HOLD:
            told += f" ({Hold.HOLD.value})"
        labels.setdefault((state, target), []).append(told)
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {first.name}"]
    lines += [
        f"    {state.name} --> {target.name}: {' / '.join(told)}"
        for (state, target), told in labels.items()
    ]
    return "\n".join([*lines, f"    {last.name} --> [*]", "```", ""])


def _example(message: Mapping[str, Any]) -> str:
    short = json.dumps(message)
    return short if len(short) <= _LINE else json.dumps(message, indent=2)


def _side(struct: type) -> str:
    if struct in CLIENT and struct in SERVER:
        return "both"
    return "client" if struct in CLIENT else "server"


def _close(code: int | None) -> str:
    return "-" if code is None else str(code)


def _fields(schema: Mapping[str, Any]) -> str:
    required = schema["required"]
    names = (name for name in schema["properties"] if name != "type")
    return ", ".join(f"`{name}`" if name in required else f"`{name}?`" for name in names)


def _field_table(struct: type, schema: Mapping[str, Any]) -> str:
    rows = (
        (
            f"`{name}`" if name in schema["required"] else f"`{name}?`",
            _kind(field),
            describe(struct, name),
        )
        for name, field in schema["properties"].items()
        if name != "type" or type_name(struct) == "(yours)"
    )
    return _table(("field", "JSON", "meaning"), rows)


def _kind(field: Mapping[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_kind(kind) for kind in field["anyOf"])
    if "$ref" in field:
        return str(field["$ref"])
    if "enum" in field:
        return " or ".join(f'`"{value}"`' for value in field["enum"])
    kind = str(field.get("type", "any"))
    if kind == "array":
        return f"array of {_kind(field['items'])}{_bounds(field, 'Items', 'items')}"
    if kind == "string":
        return kind + _bounds(field, "Length", "characters")
    return kind


def _bounds(field: Mapping[str, Any], suffix: str, unit: str) -> str:
    most = field.get(f"max{suffix}")
    return "" if most is None else f" ({field.get(f'min{suffix}', 0)}-{most} {unit})"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = tuple(head)
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


_PARTS: Final = {
    "errors": error_table(),
    "closes": close_table(),
    "messages": message_table(),
    "reference": message_reference(),
    "server_states": server_diagram(),
    "client_states": client_diagram(),
}
