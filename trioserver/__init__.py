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
    OutboxConfig,
    ShutdownConfig,
)
from trioserver.connection import Connection, ConnectionStatistics
from trioserver.mailbox import Mailbox, Posted
from trioserver.observer import Act, Attempt, Observer, RefusedRequest
from trioserver.presence import Presence, Present
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
    "CannotListen",
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
    "Mailbox",
    "Observer",
    "OutboxConfig",
    "Posted",
    "Presence",
    "Present",
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
