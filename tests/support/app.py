"""The application that tests connect to, and a server for it in virtual time.

Tokens are names: "alice" is alice's, "alice:60" is alice's for another 60 seconds. Resource "1" is
alice's, "2" is bob's, and "3" is for tests to say.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any, Final

import attrs
import msgspec
import trio
import trio.testing

from tests.support.client import Client
from tests.support.patience import PATIENCE
from trioserver import (
    Application,
    Config,
    Connection,
    Credentials,
    Observer,
    Refusal,
    Request,
    Server,
    User,
    serve,
)
from trioserver.lifecycle.server_connection import ServerConnection

EPOCH: Final = 1_700_000_000.0
"""The wall clock at the moment at which Trio's is zero."""

USERS: Final = ("alice", "bob", "mallory")


def wall_clock() -> float:
    """Seconds since the Unix epoch, in virtual time."""
    return EPOCH + trio.current_time()


class Text(msgspec.Struct):
    text: str


class To(msgspec.Struct):
    to: Annotated[int, msgspec.Meta(ge=0)]


class Ms(msgspec.Struct):
    ms: int


def backend_of(connection: Connection) -> ServerConnection:
    """What stands behind the facade that handlers get."""
    backend = connection._backend
    assert isinstance(backend, ServerConnection)
    return backend


@attrs.define(slots=False)
class World:
    """What tests set, and what they look at afterwards."""

    seen: list[Any] = attrs.field(factory=list)
    verify_delay: float = 0.0
    owner_delay: float = 0.0
    authorizer_error: Exception | None = None
    owners: dict[str, str] = attrs.field(factory=lambda: {"1": "alice", "2": "bob"})
    cancelled: int = 0
    authorizer_hangs: trio.Event | None = None  # until it is set

    async def authenticate(self, credentials: Credentials, request: Request) -> User | Refusal:
        await self._wait(self.verify_delay)
        match (credentials.token or "").split(":"):
            case [""]:
                return Refusal("token_missing")
            case ["expired"]:
                raise Refusal("token_expired")
            case ["early"]:
                raise Refusal("token_not_yet_valid")
            case ["revoked"]:
                raise Refusal("token_revoked")
            case ["blocked"]:
                raise Refusal("session_blocked")
            case ["forged"]:
                return Refusal("token_invalid")
            case ["broken"]:
                raise RuntimeError("the authenticator is broken")
            case [name] if name in USERS:
                return User(id=name, expires_at=wall_clock() + 3600.0, token_id=f"token-{name}")
            case [name, seconds] if name in USERS:
                return User(id=name, expires_at=wall_clock() + float(seconds))
            case _:
                raise Refusal("token_invalid")

    async def owns(self, user: User, resource: Mapping[str, str]) -> bool:
        await self._wait(self.owner_delay)
        if self.authorizer_hangs is not None:
            await self.authorizer_hangs.wait()
        if self.authorizer_error is not None:
            raise self.authorizer_error
        (id,) = resource.values()
        return self.owners.get(id) == user.id

    async def _wait(self, seconds: float) -> None:
        try:
            await trio.sleep(seconds)
        except trio.Cancelled:
            self.cancelled += 1
            raise


def make_application(world: World, path: str = "/ws/{id}", **options: Any) -> Application:
    """The application of the transcripts, and a little more."""
    app = Application(auth=world.authenticate)
    route = app.route(path, authorize=world.owns, auth_aliases=["initial"], **options)

    @route.on("echo")
    def echo(connection: Connection, payload: Text) -> Text:
        world.seen.append(("echo", payload.text))
        return payload

    @route.on("note")
    def note(connection: Connection) -> None:
        world.seen.append("note")

    @route.on("slow")
    async def slow(connection: Connection, payload: Ms) -> dict[str, int]:
        world.seen.append(("slow", payload.ms))
        await world._wait(payload.ms / 1000)
        return {"ms": payload.ms}

    @route.on("fail")
    async def fail(connection: Connection) -> None:
        raise RuntimeError("secret detail")

    @route.on("fail_inline")
    def fail_inline(connection: Connection) -> None:
        raise RuntimeError("secret detail")

    @route.on("refuse")
    async def refuse(connection: Connection) -> None:
        raise Refusal("not_found")

    @route.on("unencodable")
    def unencodable(connection: Connection) -> Any:
        return object()

    @route.on("count")
    async def count(connection: Connection, payload: To) -> AsyncIterator[dict[str, int]]:
        for n in range(payload.to):
            yield {"n": n}

    @route.on("forever")
    async def forever(connection: Connection) -> AsyncIterator[dict[str, int]]:
        n = 0
        try:
            while True:
                yield {"n": n}
                n += 1
                await trio.sleep(1.0)
        finally:
            world.seen.append("forever ended")

    @route.on("stuck")
    async def stuck(connection: Connection) -> AsyncIterator[int]:
        await trio.sleep_forever()
        yield 0

    @route.on("broken_stream")
    async def broken_stream(connection: Connection) -> AsyncIterator[int]:
        yield 0
        raise RuntimeError("secret detail")

    @route.on("flood")
    async def flood(connection: Connection, payload: To) -> AsyncIterator[str]:
        for _ in range(payload.to):
            world.seen.append("chunk")
            yield "x" * 10_000

    @route.on("push")
    def push(connection: Connection, payload: To) -> None:
        for _ in range(payload.to):
            connection.send_nowait("pushed", "x" * 10_000)

    @route.allow_subscribe
    def may_subscribe(connection: Connection, topic: str) -> bool:
        return topic != "secret"

    @route.allow_publish
    async def may_publish(connection: Connection, topic: str) -> bool:
        return topic != "secret"

    @route.on_ready
    def ready(connection: Connection) -> None:
        world.seen.append("ready")

    @route.on_close
    async def closed(connection: Connection) -> None:
        await trio.lowlevel.checkpoint()
        world.seen.append("closed")

    return app


@attrs.define
class Harness:
    """A server in virtual time, to which clients connect in memory."""

    server: Server
    world: World
    nursery: trio.Nursery

    def connect_raw(self, *, lockstep: bool = False, remote: str | None = None) -> Client:
        """A client that has not sent anything yet; in ``lockstep``, what it does not read blocks
        the server's sending. ``remote`` is its address, none by default."""
        make = trio.testing.lockstep_stream_pair if lockstep else trio.testing.memory_stream_pair
        ours, theirs = make()
        self.nursery.start_soon(partial(self.server.serve_stream, theirs, remote=remote))
        return Client(ours)

    async def connect(
        self, path: str = "/ws/1", *, remote: str | None = None, **headers: str
    ) -> Client:
        """A client after the opening handshake; ``headers`` are written with underscores."""
        client = self.connect_raw(remote=remote)
        await client.open(path, headers=headers)
        return client

    async def ready(self, path: str = "/ws/1", token: str = "alice", **more: Any) -> Client:
        """A client that is ready."""
        client = await self.connect(path)
        await client.authenticate(token, **more)
        return client

    async def assert_nothing_left(self) -> None:
        """Wait until every connection has ended, and see that none has left anything."""
        with trio.fail_after(PATIENCE):
            while self.nursery.child_tasks:  # noqa: ASYNC110 -- there is no event for it
                await trio.sleep(0.1)
        statistics = self.server.statistics()
        assert (statistics.open, statistics.unauthenticated, statistics.ready) == (0, 0, 0)
        assert statistics.topics == 0
        assert not self.server.connections
        assert not self.server._context.registry.all


@asynccontextmanager
async def serving(
    config: Config | None = None,
    *,
    world: World | None = None,
    app: Application | None = None,
    observers: Iterable[Observer] = (),
    **options: Any,
) -> AsyncIterator[Harness]:
    """A harness around a server of the test application; at the end, nothing may be left.

    ``app``: another one.
    """
    world = world or World()
    app = app or make_application(world, **options)
    async with trio.open_nursery() as nursery:
        server = await nursery.start(_serve, app, config or Config(port=0), observers)
        async with trio.open_nursery() as streams:
            harness = Harness(server, world, streams)
            yield harness
            streams.cancel_scope.cancel()
        nursery.cancel_scope.cancel()


async def _serve(
    app: Application, config: Config, observers: Iterable[Observer], *, task_status: Any
) -> None:
    await serve(app, config, observers=observers, clock=wall_clock, task_status=task_status)
