"""The servers that are compared: which there are, how one is started, pinned and ended."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import secrets
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

import attrs
import msgspec
import trustme

from tests.benchmarks.machine import SERVER_CORE, prepare_process
from tests.benchmarks.settings import HOST, VARIABLE, Job, Language, Settings

ROOMS: Final = 20_000
"""Rooms in the database, each with an owner of its own: "7" is "user-7"'s."""

NODE: Final = Path(__file__).with_name("peers") / "node"

_START_TIMEOUT: Final = 20.0
_STOP_TIMEOUT: Final = 2.0


@attrs.frozen(kw_only=True)
class Peer:
    """A server. ``packages`` must be installed; ``module`` is None for Node's."""

    name: str
    label: str
    module: str | None
    packages: tuple[str, ...]
    speaks: Language = "trioserver"
    async_handler: bool = False

    @property
    def missing(self) -> str | None:
        """Why it cannot run here, None where it can."""
        if self.module is None:
            if shutil.which("node") is None:
                return "Node.js is not installed"
            missing = [name for name in ("ws", "jsonwebtoken") if _node_version(name) is None]
            return f"npm has not installed {', '.join(missing)}: make bench" if missing else None
        names = [name for name in self.packages if importlib.util.find_spec(_import(name)) is None]
        return (
            f"not installed: {', '.join(names)}; pip install trioserver[bench]" if names else None
        )

    @property
    def versions(self) -> str:
        """Of its packages, as a line for people."""
        if self.module is None:
            node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
            found = ((name, _node_version(name)) for name in self.packages)
            parts = [f"{name} {version}" for name, version in found if version is not None]
            return ", ".join([f"Node.js {node.stdout.strip().removeprefix('v')}", *parts])
        return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in self.packages)


_OURS: Final = ("trioserver", "trio", "trio-websocket", "msgspec", "PyJWT")

PEERS: Final = (
    Peer(name="trioserver", label="trioserver", module="trioserver", packages=_OURS),
    Peer(
        name="trioserver-async",
        label="trioserver, `async def`",
        module="trioserver",
        packages=_OURS,
        async_handler=True,
    ),
    Peer(
        name="fastapi",
        label="FastAPI",
        module="fastapi",
        packages=("fastapi", "uvicorn", "uvloop", "httptools", "websockets", "pydantic"),
    ),
    Peer(
        name="websockets",
        label="websockets",
        module="websockets",
        packages=("websockets", "uvloop"),
    ),
    Peer(name="aiohttp", label="aiohttp", module="aiohttp", packages=("aiohttp", "uvloop")),
    Peer(
        name="trio-websocket",
        label="trio-websocket",
        module="trio_websocket",
        packages=("trio-websocket", "trio"),
    ),
    Peer(
        name="node",
        label="Node.js, ws",
        module=None,
        packages=("ws", "jsonwebtoken", "better-sqlite3", "bufferutil"),
    ),
    Peer(
        name="picows",
        label="picows (echo: does less)",
        module="picows",
        packages=("picows", "uvloop"),
        speaks="echo",
    ),
)

BY_NAME: Final = {peer.name: peer for peer in PEERS}


class CannotStart(Exception):
    """A server did not come up; says what it said."""


@attrs.frozen(kw_only=True)
class Server:
    """A server that is running."""

    peer: Peer
    port: int
    process: int
    secret: str = attrs.field(repr=False)
    authority: str | None

    def job(self, load: str, **options: object) -> Job:
        """A job for the generator, against this server."""
        fields = {
            "load": load,
            "port": self.port,
            "server": self.process,
            "secret": self.secret,
            "speaks": self.peer.speaks,
            "authority": self.authority,
        }
        return msgspec.convert(fields | options, Job)


class World:
    """What all servers share: a secret, a database of rooms, a certificate. A context manager."""

    def __enter__(self) -> World:
        self._directory = tempfile.TemporaryDirectory(prefix="trioserver-benchmark-")
        root = Path(self._directory.name)
        self.secret = secrets.token_urlsafe(48)
        self.database = root / "rooms.db"
        _make_database(self.database)
        authority = trustme.CA()
        issued = authority.issue_cert(HOST)
        self.authority, self.certificate, self.key = (
            root / name for name in ("ca.pem", "certificate.pem", "key.pem")
        )
        authority.cert_pem.write_to_path(self.authority)
        issued.private_key_pem.write_to_path(self.key)
        for blob in issued.cert_chain_pems:
            blob.write_to_path(self.certificate, append=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._directory.cleanup()

    @contextlib.contextmanager
    def start(
        self, peer: Peer, *, tls: bool = False, inline_lookups: bool = False
    ) -> Iterator[Server]:
        """A server that takes connections. Raises `CannotStart`."""
        settings = Settings(
            secret=self.secret,
            database=str(self.database),
            certificate=str(self.certificate) if tls else None,
            key=str(self.key) if tls else None,
            async_handler=peer.async_handler,
            inline_lookups=inline_lookups,
            rooms=ROOMS,
        )
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                _command(peer),
                stdout=subprocess.PIPE,
                stderr=errors,
                env=_environment(settings),
                preexec_fn=lambda: prepare_process(SERVER_CORE),
            )
            try:
                yield Server(
                    peer=peer,
                    port=_wait_for(process, errors),
                    process=process.pid,
                    secret=self.secret,
                    authority=str(self.authority) if tls else None,
                )
            finally:
                _stop(process)


def _command(peer: Peer) -> list[str]:
    if peer.module is None:
        return ["node", str(NODE / "server.js")]
    return [sys.executable, "-m", f"tests.benchmarks.peers.{peer.module}"]


def _environment(settings: Settings) -> dict[str, str]:
    environment = os.environ | {VARIABLE: msgspec.json.encode(settings).decode()}
    if _node_version("bufferutil") is None:  # else ws takes one that comes built
        environment["WS_NO_BUFFER_UTIL"] = "1"
    return environment


def _wait_for(process: subprocess.Popen[bytes], errors: IO[bytes]) -> int:
    """The port that it has announced, once it takes connections there."""
    assert process.stdout is not None
    word, _, port = process.stdout.readline().decode().partition(" ")
    deadline = time.monotonic() + _START_TIMEOUT
    while word == "port" and process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((HOST, int(port)), 1.0):
            return int(port)
        time.sleep(0.05)
    errors.seek(0)
    raise CannotStart(errors.read().decode(errors="replace")[-2000:])


def _stop(process: subprocess.Popen[bytes]) -> None:
    """The connections are gone by now: a kill loses nothing, and nobody drains for ten seconds."""
    process.kill()
    process.wait(_STOP_TIMEOUT)
    if process.stdout is not None:
        process.stdout.close()


def _make_database(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE rooms (id TEXT PRIMARY KEY, user_id TEXT NOT NULL)")
        rows = ((str(n), f"user-{n}") for n in range(ROOMS))
        connection.executemany("INSERT INTO rooms VALUES (?, ?)", rows)


def _node_version(name: str) -> str | None:
    """None where it is not installed, or has parts to build that are not built."""
    package = NODE / "node_modules" / name
    try:
        version: str = json.loads((package / "package.json").read_text())["version"]
    except OSError:
        return None
    native = (package / "binding.gyp").exists()
    return None if native and not list(package.glob("build/Release/*.node")) else version


def _import(package: str) -> str:
    return {"PyJWT": "jwt"}.get(package, package.replace("-", "_"))
