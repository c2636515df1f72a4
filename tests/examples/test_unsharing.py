"""A share that is taken back while the look-up that found it is on its way back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trio

from trioserver import Application, Config, JWTAuth, serve
from trioserver.auth import SQLAuthorizer, make_secret, make_token
from trioserver.client import ConnectionLostError, ConnectRejectedError, connect
from trioserver.examples import conversations

SECRET = make_secret()


async def test_who_is_being_looked_up_while_the_share_is_taken_back_is_not_let_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, go_on = trio.Event(), trio.Event()
    load = SQLAuthorizer._load

    async def load_slowly(self: SQLAuthorizer, keys: Any) -> Mapping[Any, bool]:
        answers = await load(self, keys)
        if any(key[0] == "bob" for key in keys):
            assert list(answers.values()) == [True]
            read.set()
            await go_on.wait()
        return answers

    monkeypatch.setattr(SQLAuthorizer, "_load", load_slowly)
    url = f"sqlite:///{tmp_path}/c.db"
    app: Application = conversations.make(
        url, auth=JWTAuth(secret=SECRET), seed={"alice": ["c1"], "bob": ["c2"]}
    )
    refusals: list[str] = []

    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve, app, Config(port=0))
        address = server.addresses[0].url + "/ws/conversations/c1"

        async def come() -> None:
            try:
                async with connect(address, token=make_token(SECRET, subject="bob")) as bob:
                    await bob.request("history")
            except (ConnectRejectedError, ConnectionLostError) as error:
                refusals.append(error.reason.code)

        token = make_token(SECRET, subject="alice")
        with trio.fail_after(20):
            async with connect(address, token=token) as alice:
                await alice.request("share", {"user": "bob"})
                async with trio.open_nursery() as coming:
                    coming.start_soon(come)
                    await read.wait()
                    await alice.request("unshare", {"user": "bob"})
                    go_on.set()
        assert refusals == ["access_denied"]
        nursery.cancel_scope.cancel()
