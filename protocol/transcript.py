"""Whole conversations as data, for testing an implementation in any language.

``docs/protocol.md`` describes the format and the application that a replayer runs against;
``schemas/transcript.schema.json`` is its schema. What a step leaves open is a wildcard,
``{"$any": "string"}``, and a token is named, ``{"$token": "valid"}``. What a real clock decides has
bounds, ``{"$any": "integer", "at_least": 1, "at_most": 500}``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from importlib import resources
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct, field

Milliseconds: TypeAlias = Annotated[int, Meta(ge=0)]
Hex: TypeAlias = Annotated[str, Meta(pattern="^([0-9a-f]{2})*$")]
TOKENS: Final = (
    "valid", "short_lived", "expired", "not_yet_valid", "forged", "revoked", "other_user",
)  # fmt: skip
"""Names that a replayer has a token for."""

_FILES: Final = resources.files("protocol") / "transcripts"
ACTIONS: Final = (
    "message", "text", "text_bytes", "binary", "repeat", "frame", "close", "vanish", "do",
)  # fmt: skip
"""Fields of a `Step`, of which exactly one is set."""

BOUNDS: Final = ("at_least", "at_most")
"""Fields of a wildcard that stands for an integer; both bounds are allowed values."""


class Repeat(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A long text message: ``text`` so many times, between ``before`` and ``after``."""

    text: str
    times: int
    before: str = ""
    after: str = ""


class CloseFrame(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A WebSocket close frame."""

    code: int
    reason: str = ""


class ServerOptions(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How the server must be configured; what is absent has the server's default."""

    auth_timeout_ms: Milliseconds | None = None
    authorization_timeout_ms: Milliseconds | None = None
    heartbeat_interval_ms: Milliseconds | None = None
    heartbeat_timeout_ms: Milliseconds | None = None
    expiry_warning_ms: Milliseconds | None = None
    drain_ms: Milliseconds | None = None
    max_message_bytes: int | None = None
    max_in_flight: int | None = None
    messages_per_second: int | None = None


class Setup(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the client connects, and how the server is configured."""

    route: str
    resource: dict[str, str]
    server: ServerOptions = ServerOptions()

    @property
    def path(self) -> str:
        """The path of the URL: the route with its parameters filled in."""
        return self.route.format_map(self.resource)


class Step(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One thing that happens, or is expected, ``at_ms`` after the connection was opened.

    Exactly one of the fields from ``message`` to ``do`` says what.
    """

    at_ms: Milliseconds
    sender: Literal["client", "server", "operator"] = field(name="from")
    message: dict[str, Any] | None = None
    text: str | None = None
    text_bytes: Hex | None = None
    binary: Hex | None = None
    repeat: Repeat | None = None
    frame: Literal["ping", "pong"] | None = None
    close: CloseFrame | None = None
    vanish: Literal[True] | None = None
    do: (
        Literal[
            "shutdown",
            "disconnect",
            "authorization_hangs",
            "authorization_fails",
            "authorization_recovers",
        ]
        | None
    ) = None
    times: Annotated[int, Meta(ge=1)] = 1
    within_ms: Milliseconds = 0

    def __post_init__(self) -> None:
        if sum(getattr(self, name) is not None for name in ACTIONS) != 1:
            raise ValueError(f"a step has exactly one of {', '.join(ACTIONS)}")

    def payload(self, tokens: Mapping[str, str]) -> bytes | None:
        """What the client sends in one WebSocket message, or None where it sends none.

        It is a binary message where ``binary`` is set, otherwise a text message, which may be
        none that UTF-8 allows. Raises `KeyError` for a token that ``tokens`` lacks.
        """
        if self.message is not None:
            return msgspec.json.encode(_with_tokens(self.message, tokens))
        if self.repeat is not None:
            long = self.repeat
            return (long.before + long.text * long.times + long.after).encode()
        if self.text is not None:
            return self.text.encode()
        hexadecimal = self.text_bytes if self.binary is None else self.binary
        return None if hexadecimal is None else bytes.fromhex(hexadecimal)


Audience: TypeAlias = Literal["server", "client"]


class Transcript(Struct, frozen=True, forbid_unknown_fields=True):
    """A conversation from the opening of the connection to its end.

    ``audience`` says which sides it can test: a ``server`` by playing the client's steps, a
    ``client`` by playing the server's. A transcript whose steps no client library would take, such
    as text that is no JSON, is for servers alone. One in which the server says what only a newer
    server may is for clients alone.
    """

    name: str
    description: str
    audience: Annotated[tuple[Audience, ...], Meta(min_length=1)]
    setup: Setup
    steps: tuple[Step, ...]


_decoder: Final = msgspec.json.Decoder(Transcript)


def names() -> tuple[str, ...]:
    """The names of all transcripts, sorted."""
    files = (entry.name for entry in _FILES.iterdir())
    return tuple(sorted(name[: -len(".json")] for name in files if name.endswith(".json")))


def names_for(side: Audience) -> tuple[str, ...]:
    """The names of the transcripts that test this side."""
    return tuple(name for name in names() if side in load(name).audience)


def load(name: str) -> Transcript:
    """Read a transcript. Raises `FileNotFoundError`, `msgspec.ValidationError`."""
    return _decoder.decode((_FILES / f"{name}.json").read_bytes())


def mismatch(expected: Any, actual: Any, path: str = "$") -> str | None:
    """Where ``actual`` differs from what a step expects, in words; None where it fits.

    Fields of ``actual`` that are not expected are ignored, as unknown fields are.
    """
    if isinstance(expected, dict):
        if "$any" in expected:
            fits = _KINDS[expected["$any"]](actual) and _is_within(expected, actual)
            return None if fits else f"{path}: {_in_words(expected)}, not {actual!r}"
        if not isinstance(actual, dict):
            return f"{path}: an object, not {actual!r}"
        absent = [name for name in expected if name not in actual]
        if absent:
            return f"{path}.{absent[0]} is missing"
        found = (
            mismatch(value, actual[name], f"{path}.{name}") for name, value in expected.items()
        )
        return next(filter(None, found), None)
    if isinstance(expected, list) and isinstance(actual, list) and len(expected) == len(actual):
        pairs = enumerate(zip(expected, actual, strict=True))
        return next(filter(None, (mismatch(e, a, f"{path}[{i}]") for i, (e, a) in pairs)), None)
    same = type(expected) is type(actual) and expected == actual
    return None if same else f"{path}: {expected!r}, not {actual!r}"


def _is_within(wildcard: Mapping[str, Any], value: Any) -> bool:
    if "at_least" in wildcard and value < wildcard["at_least"]:
        return False
    return "at_most" not in wildcard or bool(value <= wildcard["at_most"])


def _in_words(wildcard: Mapping[str, Any]) -> str:
    bounds = [f"{name.replace('_', ' ')} {wildcard[name]}" for name in BOUNDS if name in wildcard]
    return " ".join([f"any {wildcard['$any']}", *bounds])


def _is_instant(value: Any) -> bool:
    try:
        return datetime.fromisoformat(value).utcoffset() is not None
    except (TypeError, ValueError):
        return False


_KINDS: Final[dict[str, Callable[[Any], bool]]] = {
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "instant": _is_instant,
    "anything": lambda value: True,
}


def _with_tokens(value: Any, tokens: Mapping[str, str]) -> Any:
    if not isinstance(value, dict):
        return value
    if "$token" in value:
        return tokens[value["$token"]]
    return {name: _with_tokens(inner, tokens) for name, inner in value.items()}
