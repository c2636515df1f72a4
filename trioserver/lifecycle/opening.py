"""Makes a connection from the head of its request: matches the route, sets the options."""

from __future__ import annotations

import uuid

import trio

from protocol import ProtocolOptions, ServerProtocol
from trioserver.app.application import Application, RouteMatch
from trioserver.app.route import Route
from trioserver.config import Config
from trioserver.lifecycle.context import ConnectionContext
from trioserver.lifecycle.server_connection import ServerConnection
from trioserver.websocket.handshake import Head, RequestRejected, check_upgrade, subprotocols
from trioserver.websocket.multi_values import Headers
from trioserver.websocket.request import Request
from trioserver.websocket.send_limits import largest_payload
from trioserver.websocket.tls import client_certificate_of
from trioserver.websocket.tls_stream import is_secure
from trioserver.websocket.websocket import WebSocket


def match_route(head: Head, application: Application) -> RouteMatch:
    """Return the route for an opening handshake. Raises `RequestRejected`."""
    match = application.match(head.path)
    if match is None:
        raise RequestRejected(404, "There is no WebSocket at this path.")
    check_upgrade(head)
    return match


def new_connection(
    stream: trio.abc.Stream,
    head: Head,
    match: RouteMatch,
    context: ConnectionContext,
    *,
    remote: str,
    accepted_at: float,
) -> ServerConnection:
    """Make a connection. Its authentication deadline starts now; the handshake is not answered.

    ``accepted_at`` is when the stream was accepted, by Trio's clock.
    """
    config = context.config
    protocol = ServerProtocol(_options_of(context, match.route), trio.current_time())
    request = Request(
        path=head.path,
        query=head.query,
        headers=Headers(head.header_pairs),
        subprotocols=subprotocols(head),
        path_params=match.path_params,
        remote=remote,
        secure=is_secure(stream),
        certificate=client_certificate_of(stream),
    )
    return ServerConnection(
        id=uuid.uuid4().hex,
        application=match.application,
        route=match.route,
        request=request,
        protocol=protocol,
        websocket=WebSocket(
            stream,
            max_message_bytes=protocol.max_message_bytes,
            send_queue_bytes=config.send_queue.max_bytes,
            send_queue_age=config.send_queue.max_age,
            control_frames_per_second=config.limits.control_frames_per_second,
            poller=context.poller,
            memory=context.memory,
        ),
        context=context,
        accepted_at=accepted_at,
    )


def _options_of(context: ConnectionContext, route: Route) -> ProtocolOptions:
    """Return the options that all connections to the route share under one configuration."""
    options = context.options.get(route)
    if options is None:
        options = context.options[route] = _protocol_options(context.config, route)
    return options


def _protocol_options(config: Config, route: Route) -> ProtocolOptions:
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
        max_server_message_bytes=largest_payload(config.send_queue.max_bytes),
        max_in_flight=limits.max_in_flight,
        max_streams=limits.max_streams,
        max_subscriptions=limits.max_subscriptions,
        messages_per_second=limits.messages_per_second,
        bytes_per_second=limits.bytes_per_second,
        control_frames_per_second=limits.control_frames_per_second,
    )
