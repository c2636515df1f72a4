"""A client of `trioserver.v1`: ``async with connect(url, token=...) as client``."""

from trioserver.client.backoff import Backoff
from trioserver.client.client import Client, Pushed, State
from trioserver.client.close_reason import CloseReason
from trioserver.client.connecting import connect
from trioserver.client.errors import (
    ClientError,
    ConnectionLost,
    ConnectTimeout,
    Overflow,
    Refused,
    RequestRefused,
    RequestTimeout,
)
from trioserver.client.streams import Stream
from trioserver.client.subscriptions import Event, Subscription
from trioserver.client.url import Address

__all__ = [
    "Address",
    "Backoff",
    "Client",
    "ClientError",
    "CloseReason",
    "ConnectTimeout",
    "ConnectionLost",
    "Event",
    "Overflow",
    "Pushed",
    "Refused",
    "RequestRefused",
    "RequestTimeout",
    "State",
    "Stream",
    "Subscription",
    "connect",
]
