"""Every transcript of the protocol, replayed against the server in virtual time."""

from __future__ import annotations

from typing import Any, Final

import pytest
import trio
import trio.testing
from trio.testing import MockClock
from wsproto.events import CloseConnection, Ping, Pong

from protocol.transcript import ServerOptions, Setup, Step, load, mismatch, names_for
from tests.support.app import Harness, serving
from tests.support.client import Client, Ended, masked_frame
from trioserver import (
    AuthConfig,
    Config,
    HeartbeatConfig,
    LimitsConfig,
    ShutdownConfig,
)

TOKENS: Final = {
    "valid": "alice",
    "short_lived": "alice:4",
    "expired": "expired",
    "not_yet_valid": "early",
    "forged": "forged",
    "revoked": "revoked",
    "other_user": "bob",
}

SLACK: Final = 0.05  # seconds; in virtual time only the replayer's own waiting counts


@pytest.mark.parametrize("name", names_for("server"))
async def test_the_server_keeps_to_the_transcript(autojump_clock: MockClock, name: str) -> None:
    transcript = load(name)
    setup = transcript.setup
    async with serving(_config(setup.server), path=setup.route) as harness:
        client = harness.connect_raw()
        client.answer_ping = client.answer_close = False
        replay = Replay(harness, client, setup)
        begun = trio.current_time()
        await client.open(setup.path)
        for step in transcript.steps:
            for _ in range(step.times):
                await trio.sleep_until(begun + step.at_ms / 1000)
                await replay.play(step)
        client.vanish()
        await harness.assert_nothing_left()


class Replay:
    """Plays the client's and the operator's part, and judges the server's."""

    def __init__(self, harness: Harness, client: Client, setup: Setup) -> None:
        self._harness = harness
        self._client = client
        self._pings = 0

    async def play(self, step: Step) -> None:
        if step.sender == "server":
            with trio.fail_after(step.within_ms / 1000 + SLACK):
                await self._expect(step)
        elif step.sender == "operator":
            self._operate(step.do or "")
        else:
            await self._send(step)
        await trio.testing.wait_all_tasks_blocked()

    async def _expect(self, step: Step) -> None:
        client = self._client
        if step.frame == "ping":
            self._pings += 1
            await self._receive_control(lambda: client.pings >= self._pings)
        elif step.frame == "pong":
            await self._receive_control(lambda: bool(client.pongs))
            client.pongs.pop(0)
        elif step.close is not None:
            with pytest.raises(Ended) as ended:
                raise AssertionError(await client.receive())
            assert ended.value.closed.code == step.close.code
            assert ended.value.closed.reason == step.close.reason
        else:
            assert step.message is not None
            assert mismatch(step.message, await client.receive()) is None

    async def _receive_control(self, arrived: Any) -> None:
        while not arrived():
            await self._client._receive_some()

    async def _send(self, step: Step) -> None:
        client = self._client
        payload = step.payload(TOKENS)
        if payload is not None:
            opcode = 0x1 if step.binary is None else 0x2
            await client.send_bytes(masked_frame(opcode, payload))
        elif step.frame == "ping":
            await client.send_event(Ping(payload=b"x"))
        elif step.frame == "pong":
            await client.send_event(Pong(payload=b""))
        elif step.close is not None:
            await client.send_event(CloseConnection(step.close.code, step.close.reason))
        else:
            assert step.vanish
            client.vanish()

    def _operate(self, do: str) -> None:
        harness, world = self._harness, self._harness.world
        match do:
            case "shutdown":
                harness.nursery.start_soon(harness.server.drain)
            case "disconnect":
                assert harness.server.disconnect(user="alice") == 1
            case "authorization_hangs":
                world.authorizer_hangs = trio.Event()
            case "authorization_fails":
                world.authorizer_error = OSError("the database is gone")
            case "authorization_recovers":
                world.authorizer_error = None
                if world.authorizer_hangs is not None:
                    world.authorizer_hangs.set()
            case _:
                raise AssertionError(f"an operator does not {do!r}")


def _config(options: ServerOptions) -> Config:
    def chosen(**values: int | None) -> dict[str, Any]:
        return {name: value for name, value in values.items() if value is not None}

    def seconds(**values: int | None) -> dict[str, float]:
        return {name: value / 1000 for name, value in values.items() if value is not None}

    return Config(
        port=0,
        auth=AuthConfig(
            **seconds(
                timeout=options.auth_timeout_ms,
                authorization_timeout=options.authorization_timeout_ms,
                expiry_warning=options.expiry_warning_ms,
            )
        ),
        heartbeat=HeartbeatConfig(
            **seconds(interval=options.heartbeat_interval_ms, timeout=options.heartbeat_timeout_ms)
        ),
        limits=LimitsConfig(
            **chosen(
                max_message_bytes=options.max_message_bytes,
                max_in_flight=options.max_in_flight,
                messages_per_second=options.messages_per_second,
            )
        ),
        shutdown=ShutdownConfig(**seconds(drain_period=options.drain_ms)),
    )
