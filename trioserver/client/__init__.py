"""A client of `trioserver.v1`: ``async with connect(url, token=...) as client``."""

from trioserver.client.backoff import Backoff
from trioserver.client.client import Client, PushMessage
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
    "PushMessage",
    "RequestRejectedError",
    "RequestTimeoutError",
    "State",
    "Stream",
    "Subscription",
    "WebSocketURL",
    "connect",
]
