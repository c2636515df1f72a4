"""Nodes, publishers and moving subscribers on a server that fails: what is guaranteed must hold.

`python -m tests.engine.chaos --seeds 200` runs it with many seeds, and prints those that failed.
Each run has two nodes behind proxies of their own, one server, publishers that repeat under a key
until they have an answer, and subscribers that move from node to node with their positions.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from protocol import raw
from tests.engine.proxy import Proxy
from tests.support.valkey import ValkeyServer, running
from trioserver.engine.errors import EngineUnavailableError
from trioserver.engine.history import History
from trioserver.engine.position import Position, Resumed
from trioserver.engine.valkey.address import parse_engine_url
from trioserver.engine.valkey.engine import ValkeyEngine

TOPIC: Final = "chaos"
KEPT: Final = History(events=100_000, bytes=16 * 1024 * 1024, seconds=600)
PUBLISHERS: Final = 2
SUBSCRIBERS: Final = 4
FAULTS: Final = 5
_SETTLE: Final = 20.0


@attrs.define
class Verdict:
    """What was found wrong in one run, in words; nothing if the run was right."""

    seed: int
    wrong: list[str] = attrs.field(factory=list)
    published: int = 0
    heard: int = 0
    missed: Counter[str] = attrs.field(factory=Counter)
    faults: list[str] = attrs.field(factory=list)


@attrs.define(eq=False)
class Client:
    """A subscriber that knows its position, checks what it is sent, and moves between nodes."""

    name: str
    verdict: Verdict
    position: Position | None = None
    seen: dict[tuple[str, int], Any] = attrs.field(factory=dict)
    epoch: str = ""
    is_attached: bool = False
    attachment: int = 0

    def subscription(self) -> _Subscription:
        self.attachment += 1
        return _Subscription(self, self.attachment)

    def resume(self, resumed: Resumed) -> None:
        """Take the answer to a subscription: where nothing was recovered, a new position."""
        if self.position is not None and not resumed.recovered:
            self.verdict.missed[resumed.why] += 1
        if not resumed.recovered:
            self._told_of_loss(resumed.why, resumed.position)
        for frame in resumed.frames:
            self.take(json.loads(frame))
        assert self.position is not None
        if self.position.offset != resumed.position.offset:
            self._wrong(f"resumed to {resumed.position}, but the frames end at {self.position}")
        self.position = resumed.position

    def take(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "missed":
                self.verdict.missed[message["why"]] += 1
                position = Position(message["offset"], message["mark"])
                self._told_of_loss(message["why"], position)
            case "event":
                assert self.position is not None
                mark = message.get("mark", self.position.mark)
                if message["offset"] != self.position.offset + 1:
                    self._wrong(f"heard {message['offset']} after {self.position}")
                self.position = Position(message["offset"], mark)
                self.verdict.heard += 1
                self.seen[self.position.epoch, message["offset"]] = message["data"]

    def _told_of_loss(self, why: str, position: Position) -> None:
        """Go on from ``position``. What was seen before need not exist any more, if so told."""
        self.position = position
        if why in ("epoch", "forked"):
            self.seen.clear()

    def _wrong(self, text: str) -> None:
        self.verdict.wrong.append(f"{self.name}: {text}")


@attrs.define(eq=False)
class _Subscription:
    """One subscription of a client; what comes for an earlier one is not its any more."""

    client: Client
    number: int

    def deliver(self, frame: bytes) -> None:
        if self.number == self.client.attachment and self.client.is_attached:
            self.client.take(json.loads(frame))


async def run(seed: int) -> Verdict:
    """One run of some ten seconds."""
    verdict = Verdict(seed)
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        # Of two runs one has a server that loses nothing: every write is on disk before it is
        # answered. The other one comes back with an older snapshot, or with none.
        is_lossy = seed % 2 == 1
        options = () if is_lossy else ("--appendonly", "yes", "--appendfsync", "always")
        with running(Path(folder), *options) as server:
            await _run(verdict, chance, server, is_lossy)
    return verdict


async def _run(
    verdict: Verdict, chance: random.Random, server: ValkeyServer, is_lossy: bool
) -> None:
    proxies = [Proxy(server.port) for _ in range(2)]
    acknowledged: dict[str, int] = {}
    clients = [Client(f"client {n}", verdict) for n in range(SUBSCRIBERS)]
    async with trio.open_nursery() as nursery:
        for proxy in proxies:
            await nursery.start(proxy.run)
        engines = [
            ValkeyEngine(
                parse_engine_url(f"redis://127.0.0.1:{proxy.port}"),
                node=f"n{number}",
                history_of=lambda topic: KEPT,
            )
            for number, proxy in enumerate(proxies)
        ]
        for engine in engines:
            await nursery.start(engine.run)
        stop = trio.Event()
        async with trio.open_nursery() as working:
            for number in range(PUBLISHERS):
                working.start_soon(
                    _publish, engines, random.Random(chance.random()), number, stop, acknowledged
                )
            for client in clients:
                working.start_soon(_move, client, engines, random.Random(chance.random()), stop)
            for _ in range(FAULTS):
                await trio.sleep(chance.uniform(0.1, 0.6))
                await _fault(chance, server, proxies, verdict, is_lossy)
            stop.set()
        verdict.published = len(acknowledged)
        await _judge(verdict, engines, clients, {} if is_lossy else acknowledged)
        nursery.cancel_scope.cancel()


async def _publish(
    engines: list[ValkeyEngine],
    chance: random.Random,
    number: int,
    stop: trio.Event,
    acknowledged: dict[str, int],
) -> None:
    count = 0
    while not stop.is_set():
        count += 1
        key = f"p{number}-{count}"
        while True:
            try:
                position = await chance.choice(engines).publish(TOPIC, raw(key), key=key)
            except EngineUnavailableError:
                await trio.sleep(0.05)
            else:
                acknowledged[key] = position.offset
                break
        await trio.sleep(chance.uniform(0.0, 0.01))


async def _move(
    client: Client, engines: list[ValkeyEngine], chance: random.Random, stop: trio.Event
) -> None:
    """Subscribe on a node for a while, then on another one, from the last position."""
    while not stop.is_set():
        await _stay(client, chance.choice(engines), chance.uniform(0.05, 1.0))
    await _stay(client, engines[0], 0.0, until_live=True)


async def _stay(
    client: Client, engine: ValkeyEngine, seconds: float, *, until_live: bool = False
) -> None:
    """Subscribe for a while; with ``until_live`` until the node has noticed what happened last."""
    subscription = client.subscription()
    while True:
        try:
            resumed = await engine.subscribe(TOPIC, subscription, client.position)
        except EngineUnavailableError:
            await trio.sleep(0.05)
        else:
            break
    client.is_attached = True
    client.resume(resumed)
    await trio.sleep(seconds)
    if until_live:
        await _final_list(engine)  # a read on the link of the events: the link is a live one
        while not engine.hub.topics[TOPIC].is_live:  # noqa: ASYNC110
            await trio.sleep(0.05)
    client.is_attached = False
    engine.unsubscribe(TOPIC, subscription)


async def _fault(
    chance: random.Random,
    server: ValkeyServer,
    proxies: list[Proxy],
    verdict: Verdict,
    is_lossy: bool,
) -> None:
    proxy = chance.choice(proxies)
    kinds = ["cut", "up", "down", "refuse", "slow", "kill", "freeze", "nothing"]
    kind = chance.choice([*kinds, *(["snapshot", "kill", "empty"] if is_lossy else [])])
    verdict.faults.append(kind)
    match kind:
        case "cut":
            proxy.cut()
        case "up":
            proxy.swallow_up = True
        case "down":
            proxy.swallow_down = True
        case "refuse":
            proxy.is_refusing = True
            proxy.cut()
        case "slow":
            proxy.delay = chance.uniform(0.01, 0.2)
        case "snapshot":
            await trio.to_thread.run_sync(server.command, "SAVE")
        case "kill" | "empty":
            server.kill()
            if kind == "empty":
                (server.folder / "dump.rdb").unlink(missing_ok=True)
            await trio.sleep(chance.uniform(0.0, 0.5))
            await trio.to_thread.run_sync(server.start)
        case "freeze":
            server.freeze()
            await trio.sleep(chance.choice([0.1, 1.0, 4.5]))
            server.thaw()
    await trio.sleep(chance.choice([0.1, 0.5, 2.5]))
    proxy.heal()


async def _judge(
    verdict: Verdict,
    engines: list[ValkeyEngine],
    clients: list[Client],
    acknowledged: dict[str, int],
) -> None:
    """Hold what was acknowledged and heard against the engine's own list."""
    final = await _final_list(engines[0])
    counted = Counter(final.values())
    verdict.wrong += [f"{key} was published {n} times" for key, n in counted.items() if n > 1]
    for key, offset in acknowledged.items():
        if final.get(offset) != key:
            verdict.wrong.append(f"{key}, acknowledged at {offset}, is {final.get(offset)} there")
    for client in clients:
        for (_, offset), data in client.seen.items():
            if final.get(offset) != data:
                verdict.wrong.append(f"{client.name} heard {data} at {offset}: {final.get(offset)}")


async def _final_list(engine: ValkeyEngine) -> dict[int, str]:
    events: dict[int, str] = {}
    since: Position | None = None
    with trio.fail_after(_SETTLE):
        while True:
            try:
                page = await engine.history(TOPIC, since)
            except EngineUnavailableError:
                await trio.sleep(0.1)
                continue
            events |= {n: json.loads(data) for n, data in enumerate(page.events, page.first)}
            if page.is_last:
                return events
            since = Position(page.end, page.state.position.mark)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    failed = []
    for seed in range(options.first, options.first + options.seeds):
        verdict = trio.run(run, seed)
        print(
            f"seed {seed}: {verdict.published} published, {verdict.heard} heard, "
            f"missed {dict(verdict.missed)}, {' '.join(verdict.faults)}",
            *verdict.wrong[:5],
            sep="\n  ",
            flush=True,
        )
        if verdict.wrong:
            failed.append(seed)
    print(f"{options.seeds - len(failed)} of {options.seeds} right; wrong: {failed or 'none'}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
