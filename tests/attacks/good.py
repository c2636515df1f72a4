"""Those who mean well, in a process of their own: do they get what they ask for, and when?

`python -m tests.attacks.good PLAN`: it says "ready" on stdout, and then, for each line on stdin,
what has happened since the last one. It ends with stdin.
"""

from __future__ import annotations

import sys
from collections import Counter

import attrs
import msgspec
import trio

from tests.attacks.peers import Peer, token
from tests.attacks.server import prepare_process

CORE = 1


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Times are in seconds. Newcomers connect from each of these addresses in turn."""

    host: str
    port: int
    path: str = "/ws"
    clients: int = 20
    pause: float = 0.05
    """From a client's answer to its next request."""
    newcomer_every: float = 0.25
    newcomers_from: tuple[str, ...] = ("127.0.200.1", "127.0.200.2")
    patience: float = 20.0
    """After so long without an answer a request is lost."""


class Happened(msgspec.Struct, kw_only=True):
    """Since when it was last asked. Times are in ms, in ascending order."""

    answers: list[float] = []
    lost: list[str] = []
    newcomers: dict[str, int] = {}
    """How they fared: ``ready``, or why not."""
    waits: list[float] = []
    """Of newcomers, from connecting to `ready`."""


@attrs.define
class _Crowd:
    plan: Plan
    happened: Happened = attrs.field(factory=Happened)
    fared: Counter[str] = attrs.field(factory=Counter)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(self.plan.clients):
                await nursery.start(self._client, number)
            nursery.start_soon(self._newcomers)
            print("ready", flush=True)
            async for _ in trio.lowlevel.FdStream(0):
                print(self._take().decode(), flush=True)
            nursery.cancel_scope.cancel()

    def _take(self) -> bytes:
        happened, self.happened = self.happened, Happened()
        happened.newcomers = dict(self.fared)
        self.fared.clear()
        happened.answers.sort()
        happened.waits.sort()
        return msgspec.json.encode(happened)

    async def _client(self, number: int, *, task_status: trio.TaskStatus[None]) -> None:
        plan = self.plan
        with await Peer.open((plan.host, plan.port), "127.0.200.3") as peer:
            outcome = await peer.get_ready(token(f"good-{number}"), plan.path)
            assert outcome == "ready", outcome
            task_status.started()
            request = 0
            try:
                while True:
                    request += 1
                    with trio.fail_after(plan.patience):
                        await self._ask(peer, request)
                    await trio.sleep(plan.pause)
            except (OSError, trio.TooSlowError) as error:
                self.happened.lost.append(f"{type(error).__name__} {error}")

    async def _ask(self, peer: Peer, number: int) -> None:
        begun = trio.current_time()
        await peer.say(type="echo", id=number, data=number)
        answer = await peer.hear_until("ack", "error", "goaway")
        self.happened.answers.append((trio.current_time() - begun) * 1000)
        if answer != {"type": "ack", "id": number, "data": number}:
            self.happened.lost.append(str(answer))

    async def _newcomers(self) -> None:
        plan = self.plan
        number = 0
        async with trio.open_nursery() as nursery:
            while True:
                nursery.start_soon(self._newcomer, number)
                number += 1
                await trio.sleep(plan.newcomer_every)

    async def _newcomer(self, number: int) -> None:
        plan = self.plan
        begun = trio.current_time()
        fared = "no answer"
        with trio.move_on_after(plan.patience):
            try:
                address = plan.newcomers_from[number % len(plan.newcomers_from)]
                with await Peer.open((plan.host, plan.port), address) as peer:
                    fared = await peer.get_ready(token(f"newcomer-{number % 50}"), plan.path)
            except OSError as error:
                fared = f"not connected: {error.strerror}"
        if fared == "ready":
            self.happened.waits.append((trio.current_time() - begun) * 1000)
        self.fared[fared] += 1


def main() -> None:
    prepare_process(CORE)
    trio.run(_Crowd(msgspec.json.decode(sys.argv[1], type=Plan)).run)


if __name__ == "__main__":
    main()
