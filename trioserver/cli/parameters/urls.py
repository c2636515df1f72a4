"""Parses the URL to connect to."""

from __future__ import annotations

import click

from trioserver.client import WebSocketURL


def parse_url(option: str, url: str) -> WebSocketURL:
    """Parse a ws:// or wss:// URL. Raises `click.UsageError` that names ``option``."""
    try:
        return WebSocketURL.parse(url)
    except ValueError as error:
        raise click.UsageError(f"{option}: {error}") from None
