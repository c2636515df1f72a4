"""A client of `trioserver.v1`: ``async with connect(url, token=...) as client``."""

from protocol.messages import Ready
from trioserver.client.backoff import Backoff
from trioserver.client.client import Client, Messages, PushMessage
from trioserver.client.close_reason import CloseReason
from trioserver.client.connecting import connect
from trioserver.client.errors import (
    BufferOverflowError,
    ClientError,
    ConnectionLostError,
    ConnectRejectedError,
    ConnectTimeoutError,
    RequestRejectedError,
    RequestTimeoutError,
)
from trioserver.client.reconnecting import State
from trioserver.client.streams import Stream
from trioserver.client.subscribers import Event
from trioserver.client.subscriptions import Subscription
from trioserver.client.url import WebSocketURL

__all__ = [
    "Backoff",
    "BufferOverflowError",
    "Client",
    "ClientError",
    "CloseReason",
    "ConnectRejectedError",
    "ConnectTimeoutError",
    "ConnectionLostError",
    "Event",
    "Messages",
    "PushMessage",
    "Ready",
    "RequestRejectedError",
    "RequestTimeoutError",
    "State",
    "Stream",
    "Subscription",
    "WebSocketURL",
    "connect",
]
