"""Tokens that nobody can judge at the moment, and tokens with many claims: they are no fault of the
client, and no mark against its address.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import attrs
import jwt
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ed25519
from trio.testing import MockClock

from tests.support.app import Harness, World
from tests.support.client import Client, Closed
from trioserver import Application, Config, LimitsConfig, serve
from trioserver.auth import JWKS, JWTAuth, make_secret, make_token

SECRET: Final = make_secret()
OFFICE: Final = "192.0.2.1:40000"
KEYS: Final = {name: ed25519.Ed25519PrivateKey.generate() for name in ("old", "new", "nonsense")}


@attrs.define
class Provider:
    """Publishes the keys that are named."""

    published: list[str] = attrs.field(factory=lambda: ["old"])

    async def __call__(self, url: str) -> bytes:
        await trio.lowlevel.checkpoint()
        algorithm = jwt.get_algorithm_by_name("EdDSA")
        keys = [
            json.loads(algorithm.to_jwk(KEYS[name].public_key())) | {"kid": name}
            for name in self.published
        ]
        return json.dumps({"keys": keys}).encode()


def signed_with(name: str) -> str:
    return make_token(KEYS[name], subject="alice", key_id=name)


@asynccontextmanager
async def serving(auth: JWTAuth, **limits: Any) -> AsyncIterator[Harness]:
    app = Application(auth=auth)
    app.route("/ws", allow_query_token=True)
    config = Config(port=0, limits=LimitsConfig(**limits))
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve, app, config)
        async with trio.open_nursery() as streams:
            yield Harness(server, World(), streams)
            streams.cancel_scope.cancel()
        nursery.cancel_scope.cancel()


async def answer(harness: Harness, token: str) -> tuple[str, Closed | None]:
    """What a client is told, and how it is closed; None where it is let in."""
    client = await harness.connect("/ws", remote=OFFICE)
    await client.receive_until("hello")
    await client.send(type="auth", token=token)
    message = await client.receive()
    if message["type"] == "ready":
        await client.close()
        return "ready", None
    return message["code"], (await client.receive_end())[1]


async def ready(harness: Harness, token: str) -> Client:
    client = await harness.connect("/ws", remote=OFFICE)
    await client.authenticate(token)
    return client


async def test_a_strangers_unknown_kid_keeps_nobody_out_who_has_the_new_key(
    autojump_clock: MockClock,
) -> None:
    provider = Provider()
    jwks = JWKS("https://provider.example/keys", fetch=provider)
    async with serving(JWTAuth(jwks=jwks)) as harness:
        assert await answer(harness, signed_with("nonsense")) == (
            "token_invalid",
            Closed(1008, "token_invalid"),
        )
        provider.published = ["old", "new"]
        assert await answer(harness, signed_with("new")) == ("ready", None)


async def test_a_refresh_with_a_key_that_cannot_be_asked_for_now_keeps_the_session(
    autojump_clock: MockClock,
) -> None:
    provider = Provider()
    jwks = JWKS("https://provider.example/keys", fetch=provider, cooldown=20.0)
    async with serving(JWTAuth(jwks=jwks)) as harness:
        client = await ready(harness, signed_with("old"))
        for _ in range(3):
            await answer(harness, signed_with("nonsense"))
        provider.published = ["old", "new"]
        await client.send(type="auth", id=1, token=signed_with("new"))
        error = await client.receive()
        assert (error["code"], error["retry"], error["fatal"]) == ("unavailable", "backoff", False)
        await trio.sleep(16)
        await client.send(type="auth", id=2, token=signed_with("new"))
        assert (await client.receive())["type"] == "auth_refreshed"


async def test_an_address_is_not_banned_for_keys_that_cannot_be_looked_up(
    autojump_clock: MockClock,
) -> None:
    provider = Provider()
    jwks = JWKS("https://provider.example/keys", fetch=provider, cooldown=1000.0, timeout=0.1)
    async with serving(JWTAuth(jwks=jwks), max_invalid_tokens=10) as harness:
        for _ in range(3):
            await answer(harness, signed_with("nonsense"))
        provider.published = ["old", "new"]
        for _ in range(30):
            assert await answer(harness, signed_with("new")) == (
                "unavailable",
                Closed(1013, "unavailable"),
            )
        assert await answer(harness, signed_with("old")) == ("ready", None)


async def test_an_address_that_goes_on_with_unknown_kids_is_banned_as_for_any_invalid_token(
    autojump_clock: MockClock,
) -> None:
    jwks = JWKS("https://provider.example/keys", fetch=Provider())
    async with serving(
        JWTAuth(jwks=jwks), max_invalid_tokens=3, invalid_token_window=600
    ) as harness:
        for _ in range(3):
            assert (await answer(harness, signed_with("nonsense")))[0] == "token_invalid"
        assert harness.server.statistics().address_bans == 1


def with_groups(number: int) -> str:
    """As a provider makes them that puts each group of a user into the token."""
    groups = [str(uuid.uuid4()) for _ in range(number)]
    return make_token(SECRET, subject="alice", claims={"groups": groups})


@pytest.mark.parametrize("number", [157, 200])
async def test_a_token_may_be_as_large_as_the_message_that_brings_it(
    number: int, autojump_clock: MockClock
) -> None:
    token = with_groups(number)
    assert len(token) > 8192
    async with serving(JWTAuth(secret=SECRET)) as harness:
        assert await answer(harness, token) == ("ready", None)
        client = await ready(harness, token)
        await client.send(type="auth", id=1, token=token)
        assert (await client.receive())["type"] == "auth_refreshed"
        by_query = await harness.connect(f"/ws?token={token}")
        assert (await by_query.receive_until("ready"))["user"] == {"id": "alice"}


async def test_the_limit_is_an_option(autojump_clock: MockClock) -> None:
    token = with_groups(400)
    async with serving(JWTAuth(secret=SECRET)) as harness:
        assert await answer(harness, token) == ("message_too_big", Closed(1009, "message_too_big"))
    async with serving(JWTAuth(secret=SECRET), max_message_bytes_before_ready=65536) as harness:
        assert await answer(harness, token) == ("ready", None)
    auth = JWTAuth(secret=SECRET, max_token_bytes=8192)
    async with serving(auth, max_message_bytes_before_ready=65536) as harness:
        assert await answer(harness, token) == ("token_too_big", Closed(1008, "token_too_big"))


async def test_what_may_be_in_a_refresh_is_no_larger_than_what_was_in_the_first_message(
    autojump_clock: MockClock,
) -> None:
    async with serving(JWTAuth(secret=SECRET)) as harness:
        client = await ready(harness, with_groups(1))
        await client.send(type="auth", id=1, token=with_groups(400))
        error = await client.receive()
        assert (error["code"], error["fatal"], error["id"]) == ("invalid_payload", False, 1)


async def test_tokens_that_are_too_large_do_not_count_as_invalid(autojump_clock: MockClock) -> None:
    auth = JWTAuth(secret=SECRET, max_token_bytes=8192)
    async with serving(auth, max_invalid_tokens=3) as harness:
        for _ in range(20):
            assert (await answer(harness, with_groups(200)))[0] == "token_too_big"
        assert await answer(harness, with_groups(20)) == ("ready", None)
