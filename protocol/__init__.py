"""The wire protocol ``trioserver.v1``, without I/O and without a clock, for any Python program."""

from protocol.bucket import TokenBucket
from protocol.client import ClientProtocol, LocalProtocolError, RemoteProtocolError
from protocol.errors import (
    ERRORS,
    ErrorCode,
    Fatal,
    Retry,
    close_code_of,
)
from protocol.fields import SUBPROTOCOL, Id, raw
from protocol.options import ProtocolOptions
from protocol.refusals import Disconnect, Refusal, RequestError, TooBigToSendError
from protocol.server import Close, ServerProtocol
from protocol.states import CLIENT_TABLE, SERVER_TABLE, ClientState, ServerState
from protocol.times import instant, milliseconds

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
