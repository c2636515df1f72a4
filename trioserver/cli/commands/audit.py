"""`trioserver audit`: show the audit, read directly from its database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import trio

from trioserver.cli.output.audit_entries import print_entries
from trioserver.cli.output.terminal import Exit, Failure, print_error, print_json
from trioserver.cli.parameters.audit_filters import filter_options
from trioserver.cli.parameters.server import config_option
from trioserver.cli.settings.loading import load_settings
from trioserver.storage import Database, DatabaseUnavailableError
from trioserver.telemetry.audit import AuditPage, AuditQuery, AuditStore


@click.command("audit")
@config_option
@click.option(
    "--database",
    metavar="URL",
    help="Database of the audit: a SQLite file or postgresql://...  Other users of this machine "
    "can see a password in it: set TRIOSERVER_AUDIT_DATABASE instead.  [default: the option "
    "audit.database]",
)
@filter_options
@click.option(
    "--json", "as_lines", is_flag=True, help="Print one JSON object per row, each on a line."
)
def command(config_file: Path | None, database: str | None, as_lines: bool, **filters: Any) -> None:
    """Show authentications and administrative actions, newest first.

    Reads the database that the servers write to (the option audit.database), whether they run or
    not. A row appears up to audit.flush_interval after its event. A SQLite file may be read-only.

    The outcome of an authentication is "accepted", "refused" with the error code that the client
    received, or "client_disconnected" if the client left first. A "refresh" is a new token on a
    ready connection. A row "lost" counts rows that could not be kept. Token is a fingerprint: the
    start of the token's SHA-256.

    \b
    Examples:
      trioserver audit --since 1h
      trioserver audit --outcome refused --address 203.0.113.7
      trioserver audit --kind admin_action --since 2026-01-31T12:00:00Z
      trioserver audit --since 1d --json | jq -r .code | sort | uniq -c

    \b
    Exit codes:
      0  done, also if no row matches
      1  the database does not answer
      2  the command line is wrong
      3  no database is configured, or it contains no audit
    """
    url = database
    if url is None:
        settings = load_settings(config_file)
        for note in settings.notes:
            print_error(note)
        url = settings.config.audit.database
    if url is None:
        raise Failure(
            "no database is configured; set audit.database in the TOML file or the variable "
            "TRIOSERVER_AUDIT_DATABASE, or give --database",
            Exit.CONFIGURATION,
        )
    page = _read(url, AuditQuery(**filters))
    entries = [entry.as_json() for entry in page.entries]
    if as_lines:
        for entry in entries:
            print_json(entry)
        return
    print_entries(entries)
    if page.next is not None:
        print_error(f"there may be more; add --before {page.next} to see them")


def _read(url: str, query: AuditQuery) -> AuditPage:
    """Query the database without creating a file or a table. Raises `Failure`."""
    _check_file(url)
    try:
        database = Database(url, read_only=True)
        return trio.run(_query, database, query)
    except (ValueError, ImportError) as error:
        raise Failure(f"audit.database: {error}", Exit.CONFIGURATION) from None
    except DatabaseUnavailableError as error:
        raise Failure(str(error)) from None


def _check_file(url: str) -> None:
    path = url.removeprefix("sqlite:///").partition("?")[0]
    if "://" not in path and "uri=" not in url and not Path(path).expanduser().is_file():
        raise Failure(
            f"there is no file {path}; check audit.database, or start the server, which creates it",
            Exit.CONFIGURATION,
        )


async def _query(database: Database, query: AuditQuery) -> AuditPage:
    async with database:
        store = AuditStore(database)
        if not await store.exists():
            raise Failure(
                "the database contains no audit; check audit.database, or start the server, which "
                "creates it",
                Exit.CONFIGURATION,
            )
        return await store.query(query)
