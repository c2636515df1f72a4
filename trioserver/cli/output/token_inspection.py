"""Shows the result of `trioserver token inspect`, as text or JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from rich.text import Text

from protocol import Refusal
from trioserver.auth import Inspection
from trioserver.cli.output.terminal import stdout_console
from trioserver.cli.output.times import in_words, instant

_ADVICE: Final = {
    "never": "trying again does not help",
    "refresh_token": "get a new token",
    "backoff": "it may be accepted later",
}
"""What a client is to do, by the ``retry`` of an error."""


def inspection_as_json(inspection: Inspection) -> dict[str, Any]:
    """The result as data for JSON. ``verified`` is None if no key was given."""
    refusal = inspection.refusal
    return {
        "verified": inspection.verified,
        "refusal": None if refusal is None else _refusal_as_json(refusal),
        "issued_at": _instant(inspection.issued_at),
        "expires_at": _instant(inspection.expires_at),
        "expires_in": inspection.expires_in,
        "header": inspection.header,
        "claims": inspection.claims,
    }


def _refusal_as_json(refusal: Refusal) -> dict[str, Any]:
    return {"code": refusal.code, "message": refusal.message, "retry": str(refusal.retry)}


def _instant(seconds: float | None) -> str | None:
    return None if seconds is None else instant(seconds)


def print_inspection(inspection: Inspection, origin: str | None) -> None:
    """Print the result as text. ``origin`` names where the key is from; None if there is none."""
    console = stdout_console()
    lines = [_part("Header", inspection.header), _part("Claims", inspection.claims)]
    if inspection.claims is not None:
        lines += [f"Issued   {_issued(inspection)}", f"Expires  {_expiry(inspection)}"]
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
    console.print(_verdict(inspection, origin), soft_wrap=True)


def _part(name: str, part: Mapping[str, Any] | None) -> str:
    # ASCII only, so that a token cannot send control sequences to the terminal.
    return f"{name}   " + ("cannot be read" if part is None else json.dumps(part, indent=2))


def _issued(inspection: Inspection) -> str:
    if inspection.issued_at is None:
        return "unknown: the token has no iat claim that is a time"
    if inspection.expires_at is None or inspection.expires_in is None:
        return instant(inspection.issued_at)
    ago = inspection.expires_at - inspection.expires_in - inspection.issued_at
    words = f"{in_words(ago)} ago" if ago >= 0 else f"in {in_words(ago)}"
    return f"{instant(inspection.issued_at)} ({words})"


def _expiry(inspection: Inspection) -> str:
    if inspection.expires_at is None or inspection.expires_in is None:
        return "never: the token has no exp claim that is a time"
    words = in_words(inspection.expires_in)
    relative = f"in {words}" if inspection.expires_in > 0 else f"expired {words} ago"
    return f"{instant(inspection.expires_at)} ({relative})"


def _verdict(inspection: Inspection, origin: str | None) -> Text:
    if inspection.refusal is not None:
        refusal = inspection.refusal
        advice = _ADVICE.get(str(refusal.retry), "")
        text = f"REFUSED with {origin}: {refusal.code}. {refusal.message} ({advice})"
        return Text(text, "bold red")
    if inspection.verified:
        return Text(f"ACCEPTED with {origin}.", "bold green")
    if inspection.header is None or inspection.claims is None:
        return Text("REFUSED by any server: this is not a JWT.", "bold red")
    expired = inspection.expires_in is not None and inspection.expires_in <= 0
    return Text(
        "NOT VERIFIED: no secret or key was given, so the token may be forged."
        + (" It would be refused in any case: it has expired." if expired else ""),
        "bold yellow",
    )
