"""From a request's head to a connection that can begin: which route, which options."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Final
from weakref import WeakKeyDictionary

import trio

from protocol import ProtocolOptions, ServerProtocol
from trioserver.app.application import Application, RouteMatch
from trioserver.app.connection import Connection
from trioserver.app.route import Route
from trioserver.config import Config
from trioserver.websocket.handshake import Head, RequestRejected, check_upgrade, subprotocols
from trioserver.websocket.memory import Memory
from trioserver.websocket.outbox import largest_payload
from trioserver.websocket.readiness import Readiness
from trioserver.websocket.request import Request
from trioserver.websocket.tls import client_certificate_of
from trioserver.websocket.tls_stream import is_secure
from trioserver.websocket.websocket import WebSocket

_OPTIONS: Final[WeakKeyDictionary[Route, tuple[Config, ProtocolOptions]]] = WeakKeyDictionary()
"""The options of each route's connections, for the configuration that was used last."""


def judge(head: Head, application: Application) -> RouteMatch:
    """The route that a good opening handshake is for. Raises `RequestRejected`."""
    match = application.match(head.path)
    if match is None:
        raise RequestRejected(404, "There is no WebSocket at this path.")
    check_upgrade(head)
    return match


def new_connection(
    stream: trio.abc.Stream,
    head: Head,
    match: RouteMatch,
    *,
    config: Config,
    remote: str,
    wall_clock: Callable[[], float],
    readiness: Readiness | None,
    memory: Memory,
) -> Connection:
    """A connection whose session starts now; the handshake has not been answered yet."""
    session = ServerProtocol(_options_of(config, match.route), trio.current_time())
    request = Request(
        path=head.path,
        query=head.query,
        headers={name: values[0] for name, values in head.headers.items()},
        subprotocols=subprotocols(head),
        resource=match.resource,
        remote=remote,
        secure=is_secure(stream),
        certificate=client_certificate_of(stream),
    )
    return Connection(
        id=uuid.uuid4().hex,
        application=match.application,
        route=match.route,
        resource=match.resource,
        request=request,
        session=session,
        websocket=WebSocket(
            stream,
            max_message_bytes=session.max_message_bytes,
            outbox_bytes=config.outbox.max_bytes,
            outbox_age=config.outbox.max_age,
            control_frames_per_second=config.limits.control_frames_per_second,
            readiness=readiness,
            memory=memory,
        ),
        wall_clock=wall_clock,
    )


def _options_of(config: Config, route: Route) -> ProtocolOptions:
    """One for all connections to the route, until the configuration is another."""
    known = _OPTIONS.get(route)
    if known is None or known[0] is not config:
        known = _OPTIONS[route] = (config, _session_options(config, route))
    return known[1]


def _session_options(config: Config, route: Route) -> ProtocolOptions:
    """The configuration as the protocol's session wants it."""
    limits = config.limits
    return ProtocolOptions(
        auth_timeout=config.auth.timeout,
        greeting=route.greeting,
        auth_aliases=route.auth_aliases,
        heartbeat=route.heartbeat,
        heartbeat_interval=config.heartbeat.interval,
        heartbeat_timeout=config.heartbeat.timeout,
        expiry_warning=config.auth.expiry_warning,
        max_message_bytes=limits.max_message_bytes,
        max_message_bytes_before_ready=limits.max_message_bytes_before_ready,
        max_server_message_bytes=largest_payload(config.outbox.max_bytes),
        max_in_flight=limits.max_in_flight,
        max_streams=limits.max_streams,
        max_subscriptions=limits.max_subscriptions,
        messages_per_second=limits.messages_per_second,
        bytes_per_second=limits.bytes_per_second,
        control_frames_per_second=limits.control_frames_per_second,
    )
