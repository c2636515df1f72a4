"""A WebSocket server that knows who is on the other end."""

from protocol import Id, Refusal
from trioserver.application import Application, Route, anyone
from trioserver.auth import Credentials, JWTAuth, User
from trioserver.config import (
    AuthConfig,
    Config,
    HandlerConfig,
    HeartbeatConfig,
    LimitsConfig,
    ListenConfig,
    OriginConfig,
    OutboxConfig,
    ProxyConfig,
    ShutdownConfig,
)
from trioserver.connection import Connection, ConnectionStatistics
from trioserver.observer import Act, Attempt, Block, Eviction, Observer, RefusedRequest
from trioserver.server import Server, ServerStatistics, serve
from trioserver.websocket.listeners import Address, CannotListen
from trioserver.websocket.request import Request

__version__ = "0.1.0"

__all__ = [
    "Act",
    "Address",
    "Application",
    "Attempt",
    "AuthConfig",
    "Block",
    "CannotListen",
    "Config",
    "Connection",
    "ConnectionStatistics",
    "Credentials",
    "Eviction",
    "HandlerConfig",
    "HeartbeatConfig",
    "Id",
    "JWTAuth",
    "LimitsConfig",
    "ListenConfig",
    "Observer",
    "OriginConfig",
    "OutboxConfig",
    "ProxyConfig",
    "Refusal",
    "RefusedRequest",
    "Request",
    "Route",
    "Server",
    "ServerStatistics",
    "ShutdownConfig",
    "User",
    "anyone",
    "serve",
]
