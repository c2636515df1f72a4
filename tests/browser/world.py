"""The demo in a process of its own, which can be stopped and started again, and Chromium."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import attrs
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from trioserver.auth import make_secret, make_token
from trioserver.examples import audiences

PASSWORD: Final = "open sesame, said the test"
PATIENCE: Final = 30_000.0
"""Milliseconds for what takes a fraction of a second, on a machine that is busy."""

TOKEN: Final = re.compile(r"eyJ[\w-]{8,}")
"""How every JWT begins."""


@attrs.define
class Demo:
    """The demo on one port and one database, however often it is started."""

    data: Path
    secret: str = attrs.field(factory=make_secret, repr=False)
    facts: dict[str, Any] = attrs.field(factory=dict, repr=False)
    _process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """On the same port as before."""
        port = self.facts["ws"].rpartition(":")[2] if self.facts else "0"
        command = [sys.executable, "-m", "trioserver", "demo", "--json", "--port", port]
        own = {key: value for key, value in os.environ.items() if not key.startswith("TRIOSERVER_")}
        with (self.data / "log").open("a") as log:
            self._process = subprocess.Popen(
                [*command, "--data", str(self.data)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**own, "TRIOSERVER_SECRET": self.secret, "TRIOSERVER_DEMO_PASSWORD": PASSWORD},
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, (self.data / "log").read_text()
        self.facts = json.loads(line)

    def kill(self) -> None:
        """As a power cut does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.communicate()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    @property
    def url(self) -> str:
        """Where the pages are."""
        url: str = self.facts["http"]
        return url

    def token(self, user: str) -> str:
        """One that lives for half an hour."""
        claims = {"role": "admin"} if user == "admin" else {}
        return make_token(self.secret, subject=user, claims=claims, audience=audiences.PAGES)


def find_chromium() -> str | None:
    """Where the system's browser is."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


@contextmanager
def chromium(path: str) -> Iterator[Browser]:
    """A running browser, without a window."""
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


class Visit:
    """A browser's profile: tabs of the demo, and what they leave where no token may be."""

    def __init__(self, demo: Demo, context: BrowserContext) -> None:
        self.demo = demo
        self.context = context
        self.console: list[str] = []
        self.errors: list[str] = []
        self.urls: list[str] = []
        context.set_default_timeout(PATIENCE)
        context.on("page", self._watch)
        context.on("request", lambda request: self.urls.append(request.url))

    def _watch(self, page: Page) -> None:
        page.on("console", lambda message: self.console.append(message.text))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("websocket", lambda socket: self.urls.append(socket.url))
        page.on("framenavigated", lambda frame: self.urls.append(frame.url))

    def open(
        self, path: str, *, user: str | None = None, token: str | None = None, script: str = ""
    ) -> Page:
        """A new tab on a page; with a user, or a token, logged in already.

        ``script`` runs before those of the page.
        """
        page = self.context.new_page()
        if script:
            page.add_init_script(script)
        if user is not None or token is not None:
            login = {"user": user or "somebody", "token": token or self.demo.token(user or "")}
            page.goto(f"{self.demo.url}/static/icon.svg")  # of the same origin, and small
            page.evaluate(
                "login => sessionStorage.setItem('trioserver.session', JSON.stringify(login))",
                login,
            )
        page.goto(self.demo.url + path)
        return page

    def leave(self) -> None:
        """Close all tabs, and forget; a new context would be as clean, and take much longer."""
        for page in self.context.pages:
            page.evaluate("localStorage.clear()")
            page.close()
        for seen in (self.console, self.errors, self.urls):
            seen.clear()

    def check_no_token_is_seen(self) -> None:
        """Neither in the console, nor in any URL, nor in a document; and no page has failed."""
        seen = {"console": self.console, "errors": self.errors, "URLs": self.urls}
        seen["documents"] = [page.content() for page in self.context.pages]
        found = {where: text for where, texts in seen.items() for text in texts if _has_token(text)}
        assert not found
        assert not self.errors


def _has_token(text: str) -> bool:
    return TOKEN.search(text) is not None
