"""``/protocol`` and ``/asyncapi.json``, generated from the protocol's own tables."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from functools import cache
from html import escape
from itertools import groupby
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from protocol import SUBPROTOCOL
from protocol.generate.asyncapi import asyncapi_document
from protocol.generate.tables import close_table, error_table, message_reference, message_table
from trioserver.http.pages import secured

_CACHE: Final = {"Cache-Control": "public, max-age=300"}

_STYLE: Final = """
:root{color-scheme:light dark;--line:#8884;--code:#8882;--accent:light-dark(#0a58ca,#7fb2ff)}
*{box-sizing:border-box}
body{font:16px/1.55 system-ui,sans-serif;max-width:64rem;margin:0 auto;padding:1rem}
h1,h2,h3{line-height:1.25}h2{margin-top:2.5rem;border-bottom:1px solid var(--line)}
a{color:var(--accent)}nav a{margin-right:1rem;white-space:nowrap}
code,pre{font:.875em/1.5 ui-monospace,monospace;background:var(--code);border-radius:.25rem}
code{padding:.1em .3em;overflow-wrap:anywhere}pre{padding:.75rem;overflow-x:auto}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.9375rem}
th,td{text-align:left;vertical-align:top;padding:.4rem .6rem;border-bottom:1px solid var(--line)}
th{white-space:nowrap}
@media(max-width:40rem){thead{display:none}tr{display:block;padding:.5rem 0;
border-bottom:1px solid var(--line)}td{display:block;border:0;padding:.1rem 0}
td::before{content:attr(data-label) ": ";opacity:.65}}
"""

_INTRODUCTION: Final = f"""\
<p>JSON over WebSocket, one object in each text message. The subprotocol is
<code>{SUBPROTOCOL}</code>. The server greets with <code>hello</code>; the client's first message
must be <code>auth</code>; others are accepted after <code>ready</code>. A client that is rejected
gets an <code>error</code> with <code>fatal: true</code>, then a close frame whose reason is the
<code>code</code> of the error. Durations are in milliseconds, times are RFC 3339 in UTC. Unknown
fields are ignored. For programs: <a href="asyncapi.json">asyncapi.json</a>.</p>
<nav><a href="#messages">Messages</a><a href="#errors">Errors</a><a href="#closes">Close
codes</a><a href="#reference">All fields</a></nav>
"""

_POLICY: Final = (
    "default-src 'none'; style-src 'sha256-"
    + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    + "'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def protocol_routes() -> list[Route]:
    """Return the two routes."""

    async def page(request: Request) -> Response:
        headers = secured({**_CACHE, "Content-Security-Policy": _POLICY})
        return Response(protocol_html(), headers=headers, media_type="text/html; charset=utf-8")

    async def document(request: Request) -> Response:
        return Response(_asyncapi(), headers=secured(_CACHE), media_type="application/json")

    return [Route("/protocol", page), Route("/asyncapi.json", document)]


@cache
def _asyncapi() -> bytes:
    return msgspec.json.encode(asyncapi_document())


@cache
def protocol_html() -> str:
    """Return the page. It loads nothing from elsewhere."""
    sections = {
        "messages": ("Messages", message_table()),
        "errors": ("Errors", error_table()),
        "closes": ("Close codes", close_table()),
        "reference": ("All fields", message_reference()),
    }
    body = "".join(
        f'<h2 id="{name}">{title}</h2>\n{"".join(_blocks(text))}'
        for name, (title, text) in sections.items()
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{SUBPROTOCOL}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>The protocol {SUBPROTOCOL}</h1>\n{_INTRODUCTION}{body}</body></html>\n"
    )


# The tables are made as Markdown, for docs/protocol.md. Of Markdown they use headings, tables,
# fenced blocks, paragraphs, and `code`: that much is turned into HTML here.


def _blocks(text: str) -> Iterator[str]:
    for index, part in enumerate(re.split(r"^```\w*\n(.*?)^```$", text, flags=re.M | re.S)):
        if index % 2:
            yield f"<pre>{escape(part)}</pre>\n"
            continue
        for is_table, group in groupby(part.splitlines(), lambda line: line.startswith("|")):
            lines = list(group)
            yield _table(lines) if is_table else "".join(map(_line, lines))


def _line(line: str) -> str:
    if not line:
        return ""
    title = line.removeprefix("### ")
    return f"<p>{_inline(line)}</p>\n" if title == line else f"<h3>{_inline(title)}</h3>\n"


def _table(lines: list[str]) -> str:
    head, _, *rows = [line.strip("| ").split(" | ") for line in lines]
    labels = [re.sub(r"[`]", "", name) for name in head]
    cells = "".join(f"<th>{_inline(name)}</th>" for name in head)
    body = "".join(
        "<tr>"
        + "".join(
            f'<td data-label="{escape(label)}">{_inline(cell)}</td>'
            for label, cell in zip(labels, row, strict=True)
        )
        + "</tr>\n"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{cells}</tr></thead>\n{body}</table></div>\n'


def _inline(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))
