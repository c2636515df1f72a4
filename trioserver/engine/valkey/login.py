"""Opens a link: finds the server, connects, logs in, and looks at what it is."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import attrs
import trio

from trioserver.engine.errors import EngineConfigurationError
from trioserver.engine.position import UNKNOWN_LINEAGE
from trioserver.engine.valkey.address import EngineAddress, HostPort
from trioserver.engine.valkey.link import Link, LinkLost, Push, ServerError, reason_of
from trioserver.engine.valkey.scripts import SCRIPTS

OPEN_TIMEOUT: Final = 4.0
"""Seconds to find a server, connect and log in."""

_LINEAGE_CHARACTERS: Final = 16
"""Of the server's replication id, which has 40: it stands in every event."""

_MISTAKES: Final = ("WRONGPASS", "NOAUTH", "NOPERM", "NOPROTO", "ERR")
_TLS_MISTAKES: Final = ("WRONG_VERSION_NUMBER", "CERTIFICATE_VERIFY_FAILED", "HTTP_REQUEST")


@asynccontextmanager
async def open_link(
    address: EngineAddress, name: str, on_push: Push | None = None
) -> AsyncIterator[tuple[Link, str]]:
    """A link to the primary that is ready for scripts, and its lineage, for the time of the block.

    The lineage is new with each restart and each promotion of the server.

    Raises `LinkLost` if the server cannot be reached or is no primary, also while the block runs,
    which is then cancelled; `EngineConfigurationError` if it does not let this program in.
    """
    with _open_timeout(address, " (does this port speak TLS?)" if address.is_tls else ""):
        stream = await _connect(address)
    async with _running(stream, on_push) as link:
        with _open_timeout(address):
            lineage = await _log_in(link, address, name)
        yield link, lineage


@contextmanager
def _open_timeout(address: EngineAddress, doubt: str = "") -> Iterator[None]:
    try:
        with trio.fail_after(OPEN_TIMEOUT):
            yield
    except trio.TooSlowError:
        reason = f"{address} did not answer in {OPEN_TIMEOUT:g} s{doubt}"
        raise LinkLost(reason, sent=False) from None


@asynccontextmanager
async def _running(stream: trio.abc.Stream, on_push: Push | None) -> AsyncIterator[Link]:
    link = Link(stream, on_push)
    lost: LinkLost | None = None

    async def run() -> None:
        nonlocal lost
        try:
            await link.run()
        except LinkLost as error:
            lost = error
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield link
        nursery.cancel_scope.cancel()
    if lost is not None:
        raise lost


async def _connect(address: EngineAddress) -> trio.abc.Stream:
    if address.service is not None:
        server: HostPort | None = await _primary(address)
    else:
        server = address.server
    stream: trio.abc.Stream | None = None
    try:
        if address.path is not None:
            return await trio.open_unix_socket(address.path)
        assert server is not None
        stream = await trio.open_tcp_stream(server.host, server.port)
        context = address.ssl_context()
        if context is not None:
            stream = trio.SSLStream(stream, context, server_hostname=server.host)
            await stream.do_handshake()
        return stream
    except BaseException as error:
        if stream is not None:
            await trio.aclose_forcefully(stream)
        if isinstance(error, OSError | trio.BrokenResourceError):
            raise _failure(address, error) from error
        raise


def _failure(address: EngineAddress, error: BaseException) -> Exception:
    cause = error.__cause__ if isinstance(error.__cause__, ssl.SSLError) else error
    if isinstance(cause, ssl.SSLError):
        reason = str(getattr(cause, "reason", None) or type(cause).__name__)
        if reason in _TLS_MISTAKES:
            return EngineConfigurationError(f"TLS with {address} fails: {reason}")
        return LinkLost(f"TLS with {address} fails: {reason}", sent=False)
    return LinkLost(f"{address}: {reason_of(error)}", sent=False)


async def _primary(address: EngineAddress) -> HostPort:
    """Ask all Sentinels at once for the primary; the first answer counts."""
    found: list[HostPort] = []
    problems: list[Exception] = []

    async def ask(sentinel: HostPort) -> None:
        single = attrs.evolve(
            address,
            service=None,
            sentinels=(),
            server=sentinel,
            user=None,
            password=address.sentinel_password,
        )
        try:
            async with _running(await _connect(single), None) as link:
                await _hello(link, single, "trioserver")
                reply = await link.call(
                    "SENTINEL", "GET-MASTER-ADDR-BY-NAME", address.service or ""
                )
                if reply is None:
                    raise EngineConfigurationError(
                        f"the Sentinel {sentinel} knows no service {address.service!r}"
                    )
                found.append(HostPort(reply[0].decode(), int(reply[1])))
                nursery.cancel_scope.cancel()
        except (LinkLost, EngineConfigurationError) as error:
            problems.append(error)

    async with trio.open_nursery() as nursery:
        for sentinel in address.sentinels:
            nursery.start_soon(ask, sentinel)
    if found:
        return found[0]
    raise problems[0]


async def _log_in(link: Link, address: EngineAddress, name: str) -> str:
    await _hello(link, address, name)
    try:
        if address.database:
            await link.call("SELECT", address.database)
        server = _fields(await link.call("INFO", "server"))
        if "cluster" in (server.get("redis_mode"), server.get("server_mode")):
            raise EngineConfigurationError(
                f"{address} is a Redis Cluster, which trioserver does not use: give it a single "
                "Valkey or Redis, or one behind Sentinel"
            )
        for script in SCRIPTS:
            await link.call("SCRIPT", "LOAD", script.source)
    except ServerError as error:
        raise _refused(address, error) from error
    try:
        replication = _fields(await link.call("INFO", "replication"))
    except ServerError:  # hidden by the provider: a fork cannot be seen
        replication = {}
    if replication.get("role", "master") != "master":
        raise LinkLost(f"{address} is a replica", sent=False)
    lineage = replication.get("master_replid") or server.get("run_id") or UNKNOWN_LINEAGE
    return lineage[:_LINEAGE_CHARACTERS]


async def _hello(link: Link, address: EngineAddress, name: str) -> None:
    login = ("AUTH", address.user or "default", address.password) if address.password else ()
    try:
        await link.call("HELLO", 3, *login, "SETNAME", name)
    except ServerError as error:
        raise _refused(address, error) from error


def _refused(address: EngineAddress, error: ServerError) -> Exception:
    """What an error while logging in means. Its text quotes no password."""
    if error.code not in _MISTAKES:
        return LinkLost(f"{address} answered {error.code}", sent=False)
    if error.code == "ERR" and "unknown command" in str(error):
        return EngineConfigurationError(f"{address} is older than Redis 6.2: it has no RESP3")
    return EngineConfigurationError(f"{address} refuses: {error}")


def _fields(info: Any) -> dict[str, str]:
    text = info.decode() if isinstance(info, bytes) else str(info)
    lines = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {name: value for name, _, value in lines}
