"""JSON Schema (2020-12) of the messages and of transcripts."""

from __future__ import annotations

import inspect
from typing import Any, Final, get_args

import msgspec

from protocol.fields import SUBPROTOCOL, TYPE_PATTERN
from protocol.generate.descriptions import EXAMPLES, FIELDS
from protocol.messages import (
    RESERVED_TYPES,
    ClientInfo,
    ClientMessage,
    HeartbeatInfo,
    Limits,
    Message,
    ServerMessage,
)
from protocol.transcript import (
    ACTIONS,
    CloseFrame,
    Repeat,
    ServerOptions,
    Setup,
    Step,
    Transcript,
)

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

CLIENT: Final[tuple[type, ...]] = (*get_args(ClientMessage), Message)
SERVER: Final[tuple[type, ...]] = (*get_args(ServerMessage), Message)
MESSAGES: Final[tuple[type, ...]] = tuple(dict.fromkeys((*CLIENT, *SERVER)))
PARTS: Final[tuple[type, ...]] = (ClientInfo, HeartbeatInfo, Limits)

_URN: Final = "urn:" + SUBPROTOCOL.replace(".", ":")
"""RFC 8141: the part after ``urn:`` has letters, digits and hyphens, and no dot."""

_INSTANTS: Final = frozenset({"expires_at", "server_time", "timestamp"})


def describe(struct: type, name: str) -> str:
    """A field in words."""
    return FIELDS.get(f"{struct.__name__}.{name}") or FIELDS[name]


def type_name(struct: type) -> str:
    """The ``type`` of a message on the wire, and a placeholder for the application's."""
    tag = getattr(struct, "__struct_config__").tag  # noqa: B009 - mypy knows no such attribute
    return "(yours)" if tag is None else str(tag)


def summary(struct: type) -> str:
    """A message in words, as its docstring has it, with Markdown's backticks."""
    if struct is Message:
        return "A message of the application's own, in either direction."
    return " ".join((inspect.getdoc(struct) or "").split("\n\n")[0].split()).replace("``", "`")


def components(template: str) -> dict[str, Any]:
    """A schema for each message and its parts; ``template`` is that of a reference."""
    structs = {struct.__name__: struct for struct in (*MESSAGES, *PARTS)}
    _, schemas = msgspec.json.schema_components(structs.values(), ref_template=template)
    for key, schema in schemas.items():
        struct = structs[key]
        schema["description"] = summary(struct)
        for name, field in schema["properties"].items():
            field["description"] = describe(struct, name)
            if name in _INSTANTS:
                _text_of(field)["format"] = "date-time"
        if key in EXAMPLES:
            schema["examples"] = [EXAMPLES[key]]
    schemas["Message"]["properties"]["type"] |= {
        "pattern": TYPE_PATTERN,
        "not": {"enum": sorted(RESERVED_TYPES)},
    }
    return schemas


def messages_schema() -> dict[str, Any]:
    """The document ``messages.schema.json``."""
    definitions = components("#/$defs/{name}")
    for side, structs in (("ClientMessage", CLIENT), ("ServerMessage", SERVER)):
        definitions[side] = {"title": side, "oneOf": [_reference(struct) for struct in structs]}
    return {
        "$schema": DIALECT,
        "$id": f"{_URN}:messages",
        "title": f"Messages of {SUBPROTOCOL}",
        "oneOf": [_reference(struct) for struct in MESSAGES],
        "$defs": definitions,
    }


def transcript_schema() -> dict[str, Any]:
    """The document ``transcript.schema.json``."""
    schema = msgspec.json.schema(Transcript)
    for struct in (Transcript, Setup, ServerOptions, Step, Repeat, CloseFrame):
        definition = schema["$defs"][struct.__name__]
        definition["description"] = summary(struct)
        definition["properties"] = {
            name: _without_null(field) for name, field in definition["properties"].items()
        }
    schema["$defs"]["Step"]["oneOf"] = [
        {"required": [action], "properties": {action: True}} for action in ACTIONS
    ]
    return {"$schema": DIALECT, "$id": f"{_URN}:transcript", **schema}


def _text_of(field: dict[str, Any]) -> dict[str, Any]:
    """The part of a field's schema that is about text: validators want ``format`` beside it."""
    (text,) = (kind for kind in field.get("anyOf", [field]) if kind.get("type") == "string")
    assert isinstance(text, dict)
    return text


def _reference(struct: type) -> dict[str, str]:
    return {"$ref": f"#/$defs/{struct.__name__}"}


def _without_null(field: dict[str, Any]) -> dict[str, Any]:
    """In a file a field that says nothing is absent, not null."""
    result = {name: value for name, value in field.items() if value is not None}
    if "enum" in result:
        result["enum"] = [value for value in result["enum"] if value is not None]
    for kind in result.pop("anyOf", []):
        if kind != {"type": "null"}:
            result |= kind
    return result
