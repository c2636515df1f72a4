"""A WebSocket server that knows who is on the other end."""

from protocol import Id, Refusal
from trioserver.application import Application, Route, anyone
from trioserver.audit import AuditPage, AuditQuery, AuditStatistics
from trioserver.auth import ClientCertificateAuth, Credentials, JWTAuth, User
from trioserver.blocks import Block, TooManyBlocks
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
    OutboxConfig,
    ProxyConfig,
    ShutdownConfig,
    TLSConfig,
    TracingConfig,
)
from trioserver.connection import Connection, ConnectionStatistics
from trioserver.inspection import ConnectionFilter, ConnectionReport, TaskReport
from trioserver.mailbox import Mailbox, Posted
from trioserver.metrics.statistics import ServerStatistics
from trioserver.observer import Act, AddressBlock, Attempt, Eviction, Observer, RefusedRequest
from trioserver.operations.reloading import Reconfigured
from trioserver.presence import Presence, Present
from trioserver.server import Blocked, Server, serve
from trioserver.websocket.errors import CannotListen
from trioserver.websocket.listeners import Address
from trioserver.websocket.request import ClientCertificate, Request

__version__ = "0.1.0"

__all__ = [
    "Act",
    "Address",
    "AddressBlock",
    "AdminConfig",
    "Application",
    "Attempt",
    "AuditConfig",
    "AuditPage",
    "AuditQuery",
    "AuditStatistics",
    "AuthConfig",
    "Block",
    "Blocked",
    "CannotListen",
    "ClientCertificate",
    "ClientCertificateAuth",
    "Config",
    "Connection",
    "ConnectionFilter",
    "ConnectionReport",
    "ConnectionStatistics",
    "Credentials",
    "Eviction",
    "HandlerConfig",
    "HeartbeatConfig",
    "HttpConfig",
    "Id",
    "JWTAuth",
    "LimitsConfig",
    "ListenConfig",
    "LogConfig",
    "Mailbox",
    "Observer",
    "OriginConfig",
    "OutboxConfig",
    "Posted",
    "Presence",
    "Present",
    "ProxyConfig",
    "Reconfigured",
    "Refusal",
    "RefusedRequest",
    "Request",
    "Route",
    "Server",
    "ServerStatistics",
    "ShutdownConfig",
    "TLSConfig",
    "TaskReport",
    "TooManyBlocks",
    "TracingConfig",
    "User",
    "anyone",
    "serve",
]
