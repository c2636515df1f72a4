"""`trioserver audit`: what was recorded, read from the database itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import trio

from trioserver.cli.output.terminal import Exit, Failure, print_error, print_json
from trioserver.cli.parameters.audit_filters import filter_options, print_entries
from trioserver.cli.parameters.server import config_option
from trioserver.cli.settings.loading import load_settings
from trioserver.storage import Database, DatabaseUnavailableError
from trioserver.telemetry.audit import AuditPage, AuditQuery, AuditStore, as_json


@click.command("audit")
@config_option
@click.option(
    "--database",
    metavar="URL",
    help="In place of the option audit.database. A URL with a password is seen in the process "
    "list: better set TRIOSERVER_AUDIT_DATABASE.",
)
@filter_options
@click.option("--json", "as_lines", is_flag=True, help="A JSON object for each row, one a line.")
def command(config_file: Path | None, database: str | None, as_lines: bool, **filters: Any) -> None:
    """Show who has authenticated, and what administrators did; the newest first.

    It reads the database that the servers write to (the option audit.database), so it works while
    they run and while they do not. Rows appear audit.flush_interval after what they tell of. An
    archived SQLite file may be read-only.

    An attempt is "accepted", "refused" with the code that the client was told, or
    "client_disconnected" where the client left before that. A "refresh" is a new token on a
    connection that was ready. "lost" stands where rows could not be kept. Token is a fingerprint,
    the start of the token's SHA-256.

    \b
    Examples:
      trioserver audit --since 1h
      trioserver audit --outcome refused --address 203.0.113.7
      trioserver audit --kind act --user root --since 2026-01-31T12:00:00Z
      trioserver audit --since 1d --json | jq -r .code | sort | uniq -c

    \b
    Exit codes: 0 also where no row fits; 1 the database does not answer; 2 the command line is
    wrong; 3 there is no database configured, or no audit in it.
    """
    url = database
    if url is None:
        settings = load_settings(config_file)
        for note in settings.notes:
            print_error(note)
        url = settings.config.audit.database
    if url is None:
        raise Failure(
            "no database is configured: set audit.database in the file or "
            "TRIOSERVER_AUDIT_DATABASE, or give --database",
            Exit.CONFIGURATION,
        )
    page = _read(url, AuditQuery(**filters))
    entries = [as_json(entry) for entry in page.entries]
    if as_lines:
        for entry in entries:
            print_json(entry)
        return
    print_entries(entries)
    if page.next is not None:
        print_error(f"there may be more: --before {page.next}")


def _read(url: str, query: AuditQuery) -> AuditPage:
    """Raises `Failure`; makes no file and no table."""
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
        raise Failure(f"there is no audit yet: no file {path}", Exit.CONFIGURATION)


async def _query(database: Database, query: AuditQuery) -> AuditPage:
    async with database:
        store = AuditStore(database)
        if not await store.exists():
            raise Failure("there is no audit in this database yet", Exit.CONFIGURATION)
        return await store.query(query)
