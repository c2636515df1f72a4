"""The wire protocol ``trioserver.v1``, with no I/O and no clock: usable by any Python program."""

from protocol.bucket import TokenBucket
from protocol.client import ClientProtocol, LocalProtocolError, RemoteProtocolError
from protocol.errors import (
    ERRORS,
    Disconnect,
    ErrorCode,
    Fatal,
    Refusal,
    RequestError,
    Retry,
    TooBigToSendError,
    close_code_of,
)
from protocol.messages import SUBPROTOCOL, Id, instant, milliseconds, raw
from protocol.options import ProtocolOptions
from protocol.server import Close, ServerProtocol
from protocol.states import CLIENT_TABLE, SERVER_TABLE, ClientState, ServerState

__all__ = [
    "CLIENT_TABLE",
    "ERRORS",
    "SERVER_TABLE",
    "SUBPROTOCOL",
    "ClientProtocol",
    "ClientState",
    "Close",
    "Disconnect",
    "ErrorCode",
    "Fatal",
    "Id",
    "LocalProtocolError",
    "ProtocolOptions",
    "Refusal",
    "RemoteProtocolError",
    "RequestError",
    "Retry",
    "ServerProtocol",
    "ServerState",
    "TokenBucket",
    "TooBigToSendError",
    "close_code_of",
    "instant",
    "milliseconds",
    "raw",
]
