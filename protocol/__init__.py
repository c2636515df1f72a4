"""The wire protocol ``trioserver.v1``, with no I/O and no clock: usable by any Python program."""

from protocol.bucket import TokenBucket
from protocol.client import ClientSession, LocalProtocolError, RemoteProtocolError
from protocol.errors import (
    ERRORS,
    Disconnect,
    ErrorCode,
    Fatal,
    Refusal,
    RequestError,
    Retry,
    TooBigToSend,
    close_code_of,
)
from protocol.messages import SUBPROTOCOL, Id, instant, milliseconds, raw
from protocol.options import SessionOptions
from protocol.server import Close, ServerSession
from protocol.states import CLIENT_TABLE, SERVER_TABLE, ClientState, ServerState

__all__ = [
    "CLIENT_TABLE",
    "ERRORS",
    "SERVER_TABLE",
    "SUBPROTOCOL",
    "ClientSession",
    "ClientState",
    "Close",
    "Disconnect",
    "ErrorCode",
    "Fatal",
    "Id",
    "LocalProtocolError",
    "Refusal",
    "RemoteProtocolError",
    "RequestError",
    "Retry",
    "ServerSession",
    "ServerState",
    "SessionOptions",
    "TokenBucket",
    "TooBigToSend",
    "close_code_of",
    "instant",
    "milliseconds",
    "raw",
]
