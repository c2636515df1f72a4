"""Write what is made from the code, or say what is stale."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from protocol.generate.asyncapi import asyncapi_document
from protocol.generate.schema import messages_schema, transcript_schema
from protocol.generate.tables import splice

_ROOT: Final = Path(__file__).parents[2]
_DOCS: Final = Path("docs/protocol.md")
_SCHEMAS: Final = Path("protocol/schemas")


def outputs(root: Path) -> dict[Path, str]:
    """What each file should hold. The docs are read, since only parts of them are generated."""
    documents = {
        "messages.schema.json": messages_schema(),
        "transcript.schema.json": transcript_schema(),
        "asyncapi.json": asyncapi_document(),
    }
    files = {root / _SCHEMAS / name: _json(document) for name, document in documents.items()}
    files[root / _DOCS] = splice((root / _DOCS).read_text(encoding="utf-8"))
    return files


def main(arguments: Sequence[str] | None = None, root: Path = _ROOT) -> int:
    """Returns the exit code: 1 where ``--check`` finds something stale."""
    parser = argparse.ArgumentParser(prog="python -m protocol.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if stale")
    check: bool = parser.parse_args(arguments).check
    stale = [path for path, text in outputs(root).items() if _read(path) != text]
    if not check:
        for path in stale:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(outputs(root)[path], encoding="utf-8")
        return 0
    for path in stale:
        sys.stderr.write(f"{path.relative_to(root)} is stale\n")
    if stale:
        sys.stderr.write("Run: make docs   (or: python -m protocol.generate)\n")
    return 1 if stale else 0


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
