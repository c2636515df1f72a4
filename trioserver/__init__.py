"""A WebSocket server that knows who is on the other end."""

from protocol import Id, Refusal
from trioserver.application import Application, Route, anyone
from trioserver.auth import ClientCertificateAuth, Credentials, JWTAuth, User
from trioserver.config import (
    AuthConfig,
    Config,
    HandlerConfig,
    HeartbeatConfig,
    LimitsConfig,
    ListenConfig,
    OutboxConfig,
    ShutdownConfig,
    TLSConfig,
)
from trioserver.connection import Connection, ConnectionStatistics
from trioserver.observer import Act, Attempt, Observer, RefusedRequest
from trioserver.reloading import Reconfigured
from trioserver.server import Server, ServerStatistics, serve
from trioserver.websocket.errors import CannotListen
from trioserver.websocket.listeners import Address
from trioserver.websocket.request import ClientCertificate, Request

__version__ = "0.1.0"

__all__ = [
    "Act",
    "Address",
    "Application",
    "Attempt",
    "AuthConfig",
    "CannotListen",
    "ClientCertificate",
    "ClientCertificateAuth",
    "Config",
    "Connection",
    "ConnectionStatistics",
    "Credentials",
    "HandlerConfig",
    "HeartbeatConfig",
    "Id",
    "JWTAuth",
    "LimitsConfig",
    "ListenConfig",
    "Observer",
    "OutboxConfig",
    "Reconfigured",
    "Refusal",
    "RefusedRequest",
    "Request",
    "Route",
    "Server",
    "ServerStatistics",
    "ShutdownConfig",
    "TLSConfig",
    "User",
    "anyone",
    "serve",
]
