"""The reference of all options, as docs/configuration.md has it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Final

from trioserver.cli.settings.options import BUILTIN_LISTEN, OPTIONS, Option
from trioserver.config import Config

_INTRODUCTION: Final = """\
# Configuration

<!-- Made by `trioserver config --markdown`; a test compares. Edit trioserver/config.py instead. -->

Every option has a default that a server can run with. A value comes from the first of these that
has one:

1. the command line: `trioserver serve chat:app --port 443`;
2. the environment: `TRIOSERVER_PORT=443`;
3. a TOML file, named by `--config FILE` or `TRIOSERVER_CONFIG`.

`trioserver config` prints what is in force and where each value came from. An unknown key in the
file, and a wrong value anywhere, stops the start with the option's name, the value and what is
allowed; an unknown `TRIOSERVER_*` variable is only pointed out.

```toml
[trioserver]
host = "0.0.0.0"
port = 443
certificate = "cert.pem"   # relative to the folder of this file
key = "key.pem"

[trioserver.heartbeat]
interval = 15              # seconds, as all durations
```

A program that embeds the server writes the same names:
`Config(port=443, heartbeat=HeartbeatConfig(interval=15))`.

An empty text stands for none in the file and in the environment, for options that may be none.
A list is `["a", "b"]` in the file and `a,b` in the environment.
"""

_LISTENERS: Final = """
## Several listeners: `[[trioserver.listen]]`

Each table is one listener, with the keys above. Where there is any, those keys must not be set
anywhere else.

```toml
[[trioserver.listen]]
host = "127.0.0.1"
port = 8765

[[trioserver.listen]]
unix_path = "/run/trioserver.sock"
```
"""

_BUILTIN: Final = """
### A listener of its own: `[trioserver.http.builtin_listen]`

With this table, of the keys of a listener, the built-in routes are served there and nowhere else.

```toml
[trioserver.http.builtin_listen]
host = "127.0.0.1"
port = 9100
```
"""

_COMMANDS: Final = """
## Variables of the commands

| variable | read by | what for |
|---|---|---|
| `TRIOSERVER_ADMIN_TOKEN` | `admin` | the administrator's token, as `--token` |
| `TRIOSERVER_ADMIN_URL` | `admin` | the server, as `--url` |
| `TRIOSERVER_CONFIG` | `serve`, `config` | the TOML file, as `--config` |
| `TRIOSERVER_SECRET` | `token`, `check`, `demo` | the secret that signs and verifies tokens |
| `TRIOSERVER_TOKEN` | `connect`, `check`, `token inspect` | the token, as `--token` |
| `TRIOSERVER_TOKEN_LIFETIME` | `demo` | how long its tokens are good, in seconds |
"""


def configuration_markdown() -> str:
    """The whole page."""
    return "".join(_parts())


def _parts() -> Iterator[str]:
    yield _INTRODUCTION
    for group, options in groupby(OPTIONS, lambda option: option.path.rpartition(".")[0]):
        if group:
            settings_class = type(getattr(Config(), group))
            yield f"\n## `[trioserver.{group}]`\n\n{_text(settings_class.__doc__)}\n\n"
        else:
            yield "\n## Where to listen: `[trioserver]`\n\n"
        yield from _table(options)
        if not group:
            yield _LISTENERS
        elif BUILTIN_LISTEN.startswith(f"{group}."):
            yield _BUILTIN
    yield _COMMANDS


def _table(options: Iterable[Option]) -> Iterator[str]:
    yield "| key | default | allowed | variable | what for |\n|---|---|---|---|---|\n"
    for option in options:
        cells = (
            f"`{option.info.name}`",
            option.shown(option.default),
            option.bounds or "",
            f"`{option.variable}`",
            _text(option.help),
        )
        yield f"| {' | '.join(cells)} |\n"


def _text(text: str | None) -> str:
    """A docstring as Markdown: one line, names in single backticks."""
    return " ".join((text or "").replace("``", "`").split())
