"""Log texts for a database that fails: what is wrong, and what an operator can do about it."""

from __future__ import annotations

from typing import Final

from trioserver.storage.errors import Cause

EXPLAINED: Final[dict[Cause, tuple[str, str]]] = {
    "bad_url": ("an option of its URL is wrong", "Correct what follows the '?' in the URL."),
    "certificate": (
        "its TLS certificate is not trusted",
        "Check sslrootcert in the URL, and the host name and dates in the certificate.",
    ),
    "conflict": ("transactions conflicted", "The same call may succeed now."),
    "connection_lost": (
        "the connection was lost",
        "See the database's log if this does not end by itself.",
    ),
    "corrupt": ("its files are damaged", "Restore a backup."),
    "disk_full": ("its disk is full", "Free some space; no restart is needed."),
    "file_access": (
        "its file cannot be opened, read or written",
        "Check that the file and its directory belong to the user that runs this process.",
    ),
    "file_missing": (
        "its file was deleted or moved while it was in use",
        "Put the file back, or restart to begin with a new one.",
    ),
    "internal": ("it failed inside", "See the database's log."),
    "locked": (
        "another program or transaction holds a lock",
        "End the program or the transaction that keeps it locked.",
    ),
    "missing_table": (
        "a table or schema is missing",
        "Restore a backup, or correct the search_path. One of the server's own is made anew when "
        "the row of its component in trioserver_schema is deleted.",
    ),
    "no_database": ("there is no such database on this server", "Create it, or correct the URL."),
    "no_host": ("its host name has no address", "Correct the host in the URL, or the DNS."),
    "no_resources": ("it lacks memory or another resource", "See the database's log."),
    "no_role": ("there is no such role (user)", "Create the role, or correct the URL."),
    "not_a_database": (
        "its file is not an SQLite database",
        "Give the path of another file, or move this one away.",
    ),
    "not_permitted": (
        "it does not admit this role from this host",
        "Add a line to its pg_hba.conf.",
    ),
    "overload": ("too many calls wait for it", "Find out what makes it slow."),
    "password": ("the password is wrong or missing", "Correct the password in the URL."),
    "prepared_statement": (
        "a connection pooler mixed up prepared statements",
        "Do not set prepare_threshold; update the pooler.",
    ),
    "privilege": (
        "the role lacks a privilege",
        "GRANT it the table, or give the URL of another role.",
    ),
    "read_only": (
        "it is read-only",
        "Promote it, or give the URL of the primary; with several hosts in the URL, add "
        "target_session_attrs=read-write.",
    ),
    "refused": (
        "nothing accepts connections there",
        "Start the database, or correct host and port in the URL.",
    ),
    "starting": ("it is starting or shutting down", "Wait; no restart is needed."),
    "timeout": ("it did not answer in time", "Check the network and the database's load."),
    "tls": ("TLS could not be agreed upon", "Check sslmode in the URL and the server's settings."),
    "too_many_connections": (
        "it has no connection left",
        "Raise its max_connections, lower max_threads here, or use a connection pooler.",
    ),
    "unknown": ("it failed", "See the database's log."),
    "unreachable": ("its host cannot be reached", "Check the network and the host in the URL."),
}


def explain(cause: Cause, where: str, detail: str = "") -> str:
    """Return a text for the log about the database at ``where``."""
    what, advice = EXPLAINED[cause]
    return f"The database failed ({where}): {what}{f' [{detail}]' if detail else ''}. {advice}"
