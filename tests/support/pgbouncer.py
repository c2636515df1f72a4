"""A PgBouncer in front of the tests' own PostgreSQL, in transaction mode, as most hosts have it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import trustme

from tests.support.ports import free_port
from tests.support.postgresql import PostgreSQL

_START_TIMEOUT: Final = 10.0
"""Seconds; it takes 0.05 s here."""

_PROGRAM: Final = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")


class PgBouncer:
    """Pools ``server_connections`` for all clients: one transaction on one, the next on another.

    ``url`` is for `trioserver.storage.Database`. It refuses ``options`` as a client connects, as it
    does by default.
    """

    def __init__(
        self,
        program: str,
        postgresql: PostgreSQL,
        *,
        server_connections: int = 2,
        certificate: trustme.LeafCert | None = None,
    ) -> None:
        directory = postgresql.directory
        port = free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        self._log = directory / f"pgbouncer-{port}.log"
        settings: dict[str, object] = {
            "listen_addr": "127.0.0.1",
            "listen_port": port,
            "auth_type": "any",
            "pool_mode": "transaction",
            "default_pool_size": server_connections,
            "unix_socket_dir": "",
            "logfile": self._log,
        }
        if certificate is not None:
            pem = directory / f"pgbouncer-{port}.pem"
            certificate.private_key_and_cert_chain_pem.write_to_path(pem)
            os.chmod(pem, 0o644)  # whoever runs it is somebody else
            settings |= {"client_tls_sslmode": "require"}
            settings |= {"client_tls_key_file": pem, "client_tls_cert_file": pem}
        file = directory / f"pgbouncer-{port}.ini"
        lines = [f"{name} = {value}" for name, value in settings.items()]
        database = f"postgres = host={directory} dbname=postgres user=postgres"
        file.write_text("\n".join(["[databases]", database, "[pgbouncer]", *lines, ""]))
        os.chmod(file, 0o644)
        self._process = subprocess.Popen(
            [program, "-q", file],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=directory,
            **postgresql.identity,
        )
        self._wait_until_it_answers(port)

    def _wait_until_it_answers(self, port: int) -> None:
        deadline = time.monotonic() + _START_TIMEOUT
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(_text_of(self._log)) from None
            time.sleep(0.01)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=10)


def _text_of(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:] if log.exists() else "it has written no log"


@contextmanager
def running_pgbouncer(postgresql: PostgreSQL, **options: Any) -> Iterator[PgBouncer]:
    """As `PgBouncer` takes it."""
    if _PROGRAM is None:
        reason = "needs PgBouncer: apt install pgbouncer"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    bouncer = PgBouncer(_PROGRAM, postgresql, **options)
    try:
        yield bouncer
    finally:
        bouncer.stop()


@pytest.fixture
def pgbouncer(postgresql: PostgreSQL) -> Iterator[PgBouncer]:
    with running_pgbouncer(postgresql) as bouncer:
        yield bouncer
