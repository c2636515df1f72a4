"""Addresses of Valkey and Redis servers, as URLs write them."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import attrs

DEFAULT_PORT: Final = 6379
SENTINEL_PORT: Final = 26379

_FORMS: Final = (
    "redis://[user:password@]host[:port][/database], rediss:// for TLS, "
    "unix:///path/to/socket[?db=0], or "
    "redis+sentinel://[user:password@]host[:port][,host[:port]...]/service[/database]"
)
_TLS_OPTIONS: Final = ("ca_file", "cert_file", "key_file")
_OPTIONS: Final[dict[str, tuple[str, ...]]] = {
    "redis": (),
    "rediss": _TLS_OPTIONS,
    "unix": ("db",),
    "redis+sentinel": ("sentinel_password", "tls", *_TLS_OPTIONS),
}


@attrs.frozen
class HostPort:
    """A TCP address."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@attrs.frozen(kw_only=True)
class EngineAddress:
    """Where the engine's server is and how to log in.

    One of ``path`` (a Unix socket), ``server`` and ``sentinels`` is given. The text of an address
    has no password.
    """

    path: str | None = None
    server: HostPort | None = None
    sentinels: tuple[HostPort, ...] = ()
    service: str | None = None
    database: int = 0
    user: str | None = attrs.field(default=None, repr=False)
    password: str | None = attrs.field(default=None, repr=False)
    sentinel_password: str | None = attrs.field(default=None, repr=False)
    is_tls: bool = False
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix://{self.path}"
        if self.service is not None:
            return f"redis+sentinel://{','.join(map(str, self.sentinels))}/{self.service}"
        return f"{'rediss' if self.is_tls else 'redis'}://{self.server}"

    def ssl_context(self) -> ssl.SSLContext | None:
        """The context for TLS, which verifies the server's certificate; None without TLS.

        Raises `OSError` or `ssl.SSLError` for files that cannot be used.
        """
        if not self.is_tls:
            return None
        context = ssl.create_default_context(cafile=self.ca_file)
        if self.cert_file is not None:
            context.load_cert_chain(self.cert_file, self.key_file)
        return context


def parse_engine_url(url: str) -> EngineAddress:
    """Read the URL of an engine. Raises `ValueError`, whose text does not quote the URL: it may
    hold a password."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises for a port that is none
    except ValueError:
        if not url.startswith("redis+sentinel:"):  # several hosts: urlsplit reads only one port
            raise ValueError(f"cannot read the engine's URL; write {_FORMS}") from None
    if parts.scheme not in _OPTIONS:
        raise ValueError(f"unknown scheme of the engine's URL; write {_FORMS}")
    options = _options(parts)
    common: dict[str, Any] = {
        "user": _text(parts.username),
        "password": _text(parts.password),
        **{name: Path(options[name]) for name in _TLS_OPTIONS if name in options},
    }
    if "key_file" in options and "cert_file" not in options:
        raise ValueError("key_file of the engine's URL needs cert_file")
    match parts.scheme:
        case "unix":
            if not parts.path or parts.netloc.rpartition("@")[2]:
                raise ValueError("a unix engine URL has three slashes: unix:///path/to/socket")
            database = _database(options.get("db", "0"))
            return EngineAddress(path=unquote(parts.path), database=database, **common)
        case "redis+sentinel":
            return _sentinel_address(parts, options, common)
    if not parts.hostname:
        raise ValueError(f"the engine's URL has no host; write {_FORMS}")
    return EngineAddress(
        server=HostPort(parts.hostname, parts.port or DEFAULT_PORT),
        database=_database(parts.path.strip("/") or "0"),
        is_tls=parts.scheme == "rediss",
        **common,
    )


def _sentinel_address(
    parts: SplitResult, options: dict[str, str], common: dict[str, Any]
) -> EngineAddress:
    hosts = parts.netloc.rpartition("@")[2]
    service, _, database = parts.path.strip("/").partition("/")
    if not service:
        raise ValueError("a Sentinel URL ends with the service's name: redis+sentinel://host/name")
    return EngineAddress(
        sentinels=tuple(map(_host_port, hosts.split(","))),
        service=unquote(service),
        database=_database(database or "0"),
        sentinel_password=options.get("sentinel_password"),
        is_tls=options.get("tls", "0") in ("1", "true"),
        **common,
    )


def _host_port(text: str) -> HostPort:
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^:\[\]]+))(?::(\d{1,5}))?", text)
    if match is None:
        raise ValueError("a Sentinel URL has host[:port], separated by commas")
    return HostPort(match[1] or match[2], int(match[3] or SENTINEL_PORT))


def _options(parts: SplitResult) -> dict[str, str]:
    allowed = _OPTIONS[parts.scheme]
    found = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    for name in found:
        if name not in allowed:
            known = ", ".join(allowed) or "none"
            raise ValueError(f"unknown option {name!r} in the engine's URL; known: {known}")
    return found


def _database(text: str) -> int:
    if not text.isdecimal() or len(text) > 5:
        raise ValueError("the database of the engine's URL is a number, such as redis://host/0")
    return int(text)


def _text(text: str | None) -> str | None:
    return unquote(text) if text else None
