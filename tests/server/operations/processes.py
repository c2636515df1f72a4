"""Servers in processes of their own, as operators run them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import trio

from tests.support.patience import PATIENCE
from trioserver.auth import make_secret, make_token

SECRET: Final = make_secret()

_APPLICATION: Final = f"""
    import os
    from trioserver import Application, JWTAuth

    app = Application(auth=JWTAuth(secret={SECRET!r}))
    route = app.route("/ws")

    @route.on("echo")
    def echo(connection, data: int):
        return data

    @route.on("keep")
    def keep(connection, data: int):
        file = os.open(os.environ["STORE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, b"%d\\n" % data)
        os.close(file)
        return data
"""


def token(subject: str = "alice") -> str:
    """One that the application takes."""
    return make_token(SECRET, subject=subject)


def write_application(folder: Path) -> None:
    """Put it into ``app.py``: ``echo`` answers with its number, ``keep`` stores it before that."""
    (folder / "app.py").write_text(textwrap.dedent(_APPLICATION))


_LAUNCHER: Final = """
import fcntl, os, sys
number, *rest = sys.argv[1:]
passed, command = map(int, rest[: int(number)]), rest[int(number) :]
copies = [fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in passed]
for place, copy in enumerate(copies, start=3):
    os.dup2(copy, place)
    os.close(copy)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=number)
os.execv(command[0], command)
"""


def as_systemd(sockets: Sequence[int], command: Sequence[str]) -> list[str]:
    """A command that becomes this one, with these sockets passed as systemd does it."""
    numbers = map(str, (len(sockets), *sockets))
    return [sys.executable, "-S", "-E", "-c", _LAUNCHER, *numbers, *command]


class Process:
    """`trioserver serve`, its log in a file. ``url`` is where it listens."""

    def __init__(self, process: subprocess.Popen[str], errors: Path) -> None:
        assert process.stdout is not None
        self.process = process
        self.errors = errors
        line = process.stdout.readline()
        if not line.startswith("listening on "):
            process.kill()
            process.wait()
            raise AssertionError(f"it does not listen: {line}{errors.read_text()}")
        self.url = line.split()[-1]

    @property
    def log(self) -> str:
        """What it has logged so far, JSON lines."""
        return self.errors.read_text()

    async def wait_log(self, text: str) -> None:
        """Wait until it has logged this."""
        with trio.fail_after(PATIENCE):
            while text not in self.log:  # noqa: ASYNC110 -- another process's file
                await trio.sleep(0.01)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    async def wait(self) -> int:
        """Wait for its end; its exit code."""
        with trio.fail_after(PATIENCE):
            while (code := self.process.poll()) is None:  # noqa: ASYNC110 -- another process
                await trio.sleep(0.01)
        return code


@contextmanager
def started(
    folder: Path,
    *arguments: str,
    name: str = "server",
    socket: int | None = None,
    pass_fds: Sequence[int] = (),
    **environment: str,
) -> Iterator[Process]:
    """Serve ``app:app`` of this folder; with ``socket``, as systemd starts it: on that socket."""
    command = [sys.executable, "-m", "trioserver", "serve", "app:app", *arguments]
    if socket is not None:
        command = as_systemd([socket], command)
        pass_fds = [*pass_fds, socket]
    with launched(
        command, folder / f"{name}.log", cwd=folder, pass_fds=pass_fds, environment=environment
    ) as process:
        yield process


@contextmanager
def launched(
    command: Sequence[str],
    errors: Path,
    *,
    cwd: Path,
    environment: Mapping[str, str],
    pass_fds: Sequence[int] = (),
) -> Iterator[Process]:
    """Run a server whose stderr goes to ``errors``; killed at the end, if it has not ended.

    No option of the caller's environment reaches it, only those of ``environment``.
    """
    own = {key: value for key, value in os.environ.items() if not key.startswith("TRIOSERVER_")}
    with errors.open("w") as file:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**own, **environment},
            stdout=subprocess.PIPE,
            stderr=file,
            pass_fds=pass_fds,
            text=True,
        )
    with process:
        try:
            yield Process(process, errors)
        finally:
            process.kill()
