"""What is measured: each row starts a server, puts loads on it, and gives figures by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias

import attrs

from tests.benchmarks import generator
from tests.benchmarks.loads import Figures
from tests.benchmarks.machine import most_connections
from tests.benchmarks.servers import PEERS, Peer, Server, World


@attrs.frozen(kw_only=True)
class Scale:
    """How long and how many."""

    rounds: int
    duration: float  # seconds of one load, after the warm-up
    warmup: float
    clients: int = 50
    subscribers: int
    storm: int
    idle: int
    quiet: int = 100
    quiet_rate: float = 1000.0  # messages a second of all quiet clients together
    connections: tuple[int, ...]
    sizes: tuple[int, ...]


FULL: Final = Scale(
    rounds=5,
    duration=2.0,
    warmup=0.5,
    subscribers=1000,
    storm=2000,
    idle=5000,
    connections=(10, 100, 1000, 10_000),
    sizes=(100, 1000, 10_000, 100_000, 1_048_576),
)

QUICK: Final = Scale(
    rounds=1,
    duration=0.5,
    warmup=0.2,
    subscribers=200,
    storm=300,
    idle=500,
    connections=(10, 100, 1000),
    sizes=(100, 10_000, 1_048_576),
)

Measure: TypeAlias = Callable[[World, Peer, Scale], Figures]


@attrs.frozen(kw_only=True)
class Row:
    """One kind of measurement, and the names of those it can be made of. Long ones have fewer
    rounds."""

    name: str
    measure: Measure
    peers: tuple[str, ...]
    most_rounds: int = 100

    def rounds(self, scale: Scale) -> int:
        return min(self.most_rounds, scale.rounds)


def _load(server: Server, load: str, scale: Scale, **options: Any) -> Figures:
    options = {"duration": scale.duration, "warmup": scale.warmup} | options
    return generator.run(server.job(load, **options))


def _named(prefix: str, figures: Figures) -> Figures:
    return {f"{prefix}.{name}": value for name, value in figures.items()}


def _depths(server: Server, scale: Scale, prefix: str = "") -> Figures:
    """One request and sixteen in flight on each connection."""
    figures: Figures = {}
    for depth in (1, 16):
        load = _load(server, "closed", scale, connections=scale.clients, in_flight=depth)
        figures |= _named(f"{prefix}d{depth}", load)
    return figures


def request(world: World, peer: Peer, scale: Scale) -> Figures:
    with world.start(peer) as server:
        return _depths(server, scale)


def fan_out(world: World, peer: Peer, scale: Scale) -> Figures:
    with world.start(peer) as server:
        return _load(server, "fan_out", scale, connections=scale.subscribers)


def storm(world: World, peer: Peer, scale: Scale) -> Figures:
    with world.start(peer) as server:
        return _load(server, "storm", scale, connections=scale.storm)


def storm_inline(world: World, peer: Peer, scale: Scale) -> Figures:
    with world.start(peer, inline_lookups=True) as server:
        return _load(server, "storm", scale, connections=scale.storm)


def memory(world: World, peer: Peer, scale: Scale) -> Figures:
    with world.start(peer) as server:
        return _load(server, "idle", scale, connections=scale.idle)


def latency(world: World, peer: Peer, scale: Scale) -> Figures:
    """At half of what the same server does in a closed loop."""
    with world.start(peer) as server:
        most = _load(server, "closed", scale, connections=scale.clients)["rate"]
        return _load(server, "open", scale, connections=scale.clients, rate=most / 2)


def flood(world: World, peer: Peer, scale: Scale) -> Figures:
    options = {"connections": scale.quiet, "rate": scale.quiet_rate}
    with world.start(peer) as server:
        figures = _named("alone", _load(server, "open", scale, **options))
        figures |= _named("flooded", _load(server, "flood", scale, **options))
    return figures | {"ratio": figures["flooded.p99_ms"] / figures["alone.p99_ms"]}


def tls(world: World, peer: Peer, scale: Scale) -> Figures:
    with world.start(peer) as server:
        figures = _depths(server, scale, "plain.")
    with world.start(peer, tls=True) as server:
        figures |= _depths(server, scale, "tls.")
    for depth in ("d1", "d16"):
        figures[f"{depth}.share"] = figures[f"tls.{depth}.rate"] / figures[f"plain.{depth}.rate"]
    return figures


def connections(world: World, peer: Peer, scale: Scale) -> Figures:
    """Each connection has one request in flight."""
    figures: Figures = {}
    for count in scale.connections:
        if count <= most_connections():
            with world.start(peer) as server:
                load = _load(server, "closed", scale, connections=count)
            figures |= _named(f"{count}", load)
    return figures


def sizes(world: World, peer: Peer, scale: Scale) -> Figures:
    figures: Figures = {}
    with world.start(peer) as server:
        for size in scale.sizes:
            load = _load(server, "closed", scale, connections=scale.clients, message_bytes=size)
            figures |= _named(f"{size}", load)
    return figures


def _all_but(*names: str) -> tuple[str, ...]:
    return tuple(peer.name for peer in PEERS if peer.name not in names)


_ONE_OF_OURS: Final = _all_but("trioserver-async", "picows")
"""Where the kind of handler makes no difference, and an echo has nothing to show."""

ROWS: Final = (
    Row(name="request", measure=request, peers=_all_but()),
    Row(name="fanout", measure=fan_out, peers=_ONE_OF_OURS),
    Row(name="storm", measure=storm, peers=_ONE_OF_OURS),
    Row(name="storm-inline", measure=storm_inline, peers=_ONE_OF_OURS),
    Row(name="memory", measure=memory, peers=_ONE_OF_OURS),
    Row(name="latency", measure=latency, peers=_all_but()),
    Row(name="flood", measure=flood, peers=_ONE_OF_OURS),
    Row(name="tls", measure=tls, peers=_all_but("picows")),
    Row(name="connections", measure=connections, peers=_all_but("trioserver-async"), most_rounds=3),
    Row(name="sizes", measure=sizes, peers=_ONE_OF_OURS, most_rounds=3),
)

BY_NAME: Final = {row.name: row for row in ROWS}


def rounds(row: Row, peers: Iterable[Peer], scale: Scale) -> list[tuple[int, Peer]]:
    """Who comes when: all of them in each round, each round begun by another."""
    members = [peer for peer in peers if peer.name in row.peers]
    order = []
    for number in range(row.rounds(scale)):
        turn = number % max(1, len(members))
        order += [(number, peer) for peer in members[turn:] + members[:turn]]
    return order
