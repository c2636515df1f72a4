"""A WebSocket server on Trio that authenticates every connection."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from protocol import Disconnect, Id, Refusal, RequestError, TooBigToSendError
    from trioserver.app.application import Application, allow_any_user
    from trioserver.app.connection import Connection, ConnectionStatistics
    from trioserver.app.mailbox import Mailbox, MailboxFullError, SendReceipt
    from trioserver.app.member import Member
    from trioserver.app.presence import Presence, PresenceEntry
    from trioserver.app.route import Route
    from trioserver.auth import ClientCertificateAuth, Component, Credentials, JWTAuth, User
    from trioserver.auth.blocks import Block, TooManyBlocksError
    from trioserver.config import (
        AdminConfig,
        AuditConfig,
        AuthConfig,
        Config,
        HandlerConfig,
        HeartbeatConfig,
        HttpConfig,
        LimitsConfig,
        ListenConfig,
        LogConfig,
        OriginConfig,
        ProxyConfig,
        SendQueueConfig,
        ShutdownConfig,
        TLSConfig,
        TracingConfig,
    )
    from trioserver.http.serving import run, serve
    from trioserver.server.administration import BlockResult
    from trioserver.server.inspection import ConnectionFilter, ConnectionReport, TaskReport
    from trioserver.server.operations.reloading import ReconfigureResult
    from trioserver.server.server import Server
    from trioserver.telemetry.audit import AuditPage, AuditQuery, AuditStatistics
    from trioserver.telemetry.metrics.statistics import ServerStatistics
    from trioserver.telemetry.observer import (
        AddressBan,
        AdminAction,
        AuthAttempt,
        Eviction,
        Observer,
        Rejection,
    )
    from trioserver.websocket.errors import ConnectionEnded, ListenError
    from trioserver.websocket.listeners import ListenAddress
    from trioserver.websocket.request import ClientCertificate, Request

__version__ = "0.1.0"

__all__ = [
    "AddressBan",
    "AdminAction",
    "AdminConfig",
    "Application",
    "AuditConfig",
    "AuditPage",
    "AuditQuery",
    "AuditStatistics",
    "AuthAttempt",
    "AuthConfig",
    "Block",
    "BlockResult",
    "ClientCertificate",
    "ClientCertificateAuth",
    "Component",
    "Config",
    "Connection",
    "ConnectionEnded",
    "ConnectionFilter",
    "ConnectionReport",
    "ConnectionStatistics",
    "Credentials",
    "Disconnect",
    "Eviction",
    "HandlerConfig",
    "HeartbeatConfig",
    "HttpConfig",
    "Id",
    "JWTAuth",
    "LimitsConfig",
    "ListenAddress",
    "ListenConfig",
    "ListenError",
    "LogConfig",
    "Mailbox",
    "MailboxFullError",
    "Member",
    "Observer",
    "OriginConfig",
    "Presence",
    "PresenceEntry",
    "ProxyConfig",
    "ReconfigureResult",
    "Refusal",
    "Rejection",
    "Request",
    "RequestError",
    "Route",
    "SendQueueConfig",
    "SendReceipt",
    "Server",
    "ServerStatistics",
    "ShutdownConfig",
    "TLSConfig",
    "TaskReport",
    "TooBigToSendError",
    "TooManyBlocksError",
    "TracingConfig",
    "User",
    "allow_any_user",
    "run",
    "serve",
]

_HOMES: Final = {
    "AdminAction": "trioserver.telemetry.observer",
    "ListenAddress": "trioserver.websocket.listeners",
    "AddressBan": "trioserver.telemetry.observer",
    "AdminConfig": "trioserver.config",
    "Application": "trioserver.app.application",
    "AuditConfig": "trioserver.config",
    "AuditPage": "trioserver.telemetry.audit",
    "AuditQuery": "trioserver.telemetry.audit",
    "AuditStatistics": "trioserver.telemetry.audit",
    "AuthAttempt": "trioserver.telemetry.observer",
    "AuthConfig": "trioserver.config",
    "Block": "trioserver.auth.blocks",
    "BlockResult": "trioserver.server.administration",
    "ListenError": "trioserver.websocket.errors",
    "ClientCertificate": "trioserver.websocket.request",
    "ClientCertificateAuth": "trioserver.auth",
    "Component": "trioserver.auth",
    "Config": "trioserver.config",
    "Connection": "trioserver.app.connection",
    "ConnectionEnded": "trioserver.websocket.errors",
    "ConnectionFilter": "trioserver.server.inspection",
    "ConnectionReport": "trioserver.server.inspection",
    "ConnectionStatistics": "trioserver.app.connection",
    "Credentials": "trioserver.auth",
    "Disconnect": "protocol",
    "Eviction": "trioserver.telemetry.observer",
    "HandlerConfig": "trioserver.config",
    "HeartbeatConfig": "trioserver.config",
    "HttpConfig": "trioserver.config",
    "Id": "protocol",
    "JWTAuth": "trioserver.auth",
    "LimitsConfig": "trioserver.config",
    "ListenConfig": "trioserver.config",
    "LogConfig": "trioserver.config",
    "Mailbox": "trioserver.app.mailbox",
    "MailboxFullError": "trioserver.app.mailbox",
    "Member": "trioserver.app.member",
    "Observer": "trioserver.telemetry.observer",
    "OriginConfig": "trioserver.config",
    "SendQueueConfig": "trioserver.config",
    "SendReceipt": "trioserver.app.mailbox",
    "Presence": "trioserver.app.presence",
    "PresenceEntry": "trioserver.app.presence",
    "ProxyConfig": "trioserver.config",
    "ReconfigureResult": "trioserver.server.operations.reloading",
    "Refusal": "protocol",
    "Rejection": "trioserver.telemetry.observer",
    "Request": "trioserver.websocket.request",
    "RequestError": "protocol",
    "Route": "trioserver.app.route",
    "Server": "trioserver.server.server",
    "ServerStatistics": "trioserver.telemetry.metrics.statistics",
    "ShutdownConfig": "trioserver.config",
    "TLSConfig": "trioserver.config",
    "TooBigToSendError": "protocol",
    "TaskReport": "trioserver.server.inspection",
    "TooManyBlocksError": "trioserver.auth.blocks",
    "TracingConfig": "trioserver.config",
    "User": "trioserver.auth",
    "allow_any_user": "trioserver.app.application",
    "run": "trioserver.http.serving",
    "serve": "trioserver.http.serving",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is asked for: a command that makes a token needs no server."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
