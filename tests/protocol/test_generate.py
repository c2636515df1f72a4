"""What is made from the code is current, and says what is so."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import msgspec
import pytest

from protocol import ERRORS, ServerProtocol
from protocol.generate.__main__ import main, outputs
from protocol.generate.asyncapi import asyncapi_document
from protocol.generate.descriptions import EXAMPLES, FIELDS
from protocol.generate.schema import (
    CLIENT,
    MESSAGES,
    PARTS,
    SERVER,
    describe,
    messages_schema,
    transcript_schema,
)
from protocol.generate.tables import error_table, splice

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
OFFICIAL = Path(__file__).parent / "data" / "asyncapi-3.0.0.json"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", DOCS, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def messages() -> Any:
    return jsonschema.Draft202012Validator(messages_schema())


def test_what_is_generated_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0, capsys.readouterr().err


def test_a_stale_file_is_named_with_the_command_that_mends_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    docs = tmp_path / "docs" / "protocol.md"
    docs.parent.mkdir()
    docs.write_text("<!-- generated: errors -->\nold\n<!-- /generated -->\n", encoding="utf-8")
    assert main(["--check"], tmp_path) == 1
    told = capsys.readouterr().err
    assert "protocol.md is stale" in told
    assert "messages.schema.json is stale" in told
    assert "make docs" in told
    assert main([], tmp_path) == 0
    assert main(["--check"], tmp_path) == 0
    assert set(outputs(tmp_path)) == {path for path in tmp_path.rglob("*") if path.is_file()}


def test_a_marker_that_nobody_fills_is_an_error() -> None:
    with pytest.raises(KeyError):
        splice("<!-- generated: nothing -->\n<!-- /generated -->")


def test_the_asyncapi_document_is_valid_by_the_official_schema() -> None:
    official = jsonschema.Draft7Validator(json.loads(OFFICIAL.read_text(encoding="utf-8")))
    document = asyncapi_document()
    official.validate(document)
    document["operations"]["greet"]["action"] = "shout"
    assert not official.is_valid(document)


def test_the_asyncapi_document_points_nowhere_else_and_leaves_no_message_out() -> None:
    document = asyncapi_document()
    references = re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(document))
    for reference in references:
        target: Any = document
        for part in reference.split("/"):
            target = target[part]
    used = {
        (operation["action"], reference["$ref"].rsplit("/", 1)[1])
        for operation in document["operations"].values()
        for reference in operation["messages"]
    }
    replies = {
        reference["$ref"].rsplit("/", 1)[1]
        for operation in document["operations"].values()
        for reference in operation.get("reply", {"messages": []})["messages"]
    }
    received = {name for action, name in used if action == "receive"} | {"Pong"}
    assert received == {struct.__name__ for struct in CLIENT}
    assert {name for action, name in used if action == "send"} | replies == {
        struct.__name__ for struct in SERVER
    }


def test_the_schemas_are_schemas() -> None:
    for path in (ROOT / "protocol" / "schemas").glob("*.schema.json"):
        jsonschema.Draft202012Validator.check_schema(json.loads(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_example_fits_its_schema_and_no_other(name: str, messages: Any) -> None:
    messages.validate(EXAMPLES[name])
    messages.evolve(schema={"$ref": f"#/$defs/{name}", **messages_schema()}).validate(
        EXAMPLES[name]
    )


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"type": "Not A Type"},
        {"type": "x", "id": ""},
        {"type": "cancel"},
        {"type": "ready"},
        [],
    ],
)
def test_what_is_no_message_fits_no_schema(message: Any, messages: Any) -> None:
    assert not messages.is_valid(message)


def test_each_message_and_each_field_is_described() -> None:
    assert set(EXAMPLES) == {struct.__name__ for struct in MESSAGES}
    described = set()
    for struct in (*MESSAGES, *PARTS):
        for field in msgspec.structs.fields(struct):
            assert describe(struct, field.encode_name)
            described |= {field.encode_name, f"{struct.__name__}.{field.encode_name}"}
    assert set(FIELDS) - {"type"} <= described, "a description of what is not there"


def test_the_table_of_errors_is_whole() -> None:
    assert error_table().count("\n") == len(ERRORS) + 2
    assert all(f"`{code}`" in error_table() for code in ERRORS)


# -------------------------------------------------------------------------------- the docs


@pytest.mark.parametrize("block", blocks("json"))
def test_each_message_and_transcript_in_the_docs_is_valid(block: str, messages: Any) -> None:
    value = json.loads(block)
    transcripts = jsonschema.Draft202012Validator(transcript_schema())
    (transcripts if "steps" in value else messages).validate(value)


@pytest.mark.parametrize("block", blocks("python"))
def test_each_python_example_in_the_docs_runs(block: str) -> None:
    exec(compile(block, "docs/protocol.md", "exec"), {})


def test_the_docs_name_every_option_of_a_transcript() -> None:
    schema = json.loads((ROOT / "protocol/schemas/transcript.schema.json").read_text())
    for name in ("Step", "ServerOptions", "Setup", "Repeat"):
        for field in schema["$defs"][name]["properties"]:
            assert f"`{field}`" in DOCS


# -------------------------------------------------------------------------------- the package


def test_the_protocol_can_be_imported_without_any_io_library() -> None:
    program = """
import sys
for name in ("trio", "trio_websocket", "asyncio", "socket", "trioserver", "click"):
    sys.modules[name] = None
import protocol, protocol.transcript
assert protocol.transcript.load("session").name == "session"
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_the_package_exports_what_it_says() -> None:
    import protocol

    assert protocol.ServerProtocol is ServerProtocol
    assert all(hasattr(protocol, name) for name in protocol.__all__)
