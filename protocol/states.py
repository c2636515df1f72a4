"""The life of a session as two tables, one for each side.

A move is looked up under (state, move). The answer is the next state, or the code of the error
(`protocol.errors`) that the move is in this state; what stands in neither table cannot happen.
The docs draw their diagrams from here.

Server: nothing of the application runs before READY, and there is one road to it:

    OPENING -start-> WAITING -auth-> VERIFYING -admit-> READY
                                                        READY -auth-> REFRESHING -admit-> READY

A token in the query string takes the place of the first message: OPENING goes to VERIFYING.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, TypeAlias


class ServerState(Enum):
    """Where a session stands, as the server sees it."""

    OPENING = "opening"
    WAITING = "waiting"
    VERIFYING = "verifying"
    READY = "ready"
    REFRESHING = "refreshing"
    CLOSED = "closed"


class ServerMove(Enum):
    """What can happen to a session on the server."""

    START = "start"
    START_VERIFYING = "start with a token in the query string"
    AUTH = "an auth message arrives"
    MESSAGE = "any other message arrives"
    ADMIT = "token and ownership are verified"
    KEEP = "a refresh could not be verified now; the old token still counts"
    DEADLINE = "the deadline passes"
    FAIL = "an error or an end"


class Hold(Enum):
    """The message waits until the verification has ended; within a bound."""

    HOLD = "held until ready"


ServerOutcome: TypeAlias = ServerState | Hold | str

_S, _M = ServerState, ServerMove

SERVER_TABLE: Final[dict[tuple[ServerState, ServerMove], ServerOutcome]] = {
    (_S.OPENING, _M.START): _S.WAITING,
    (_S.OPENING, _M.START_VERIFYING): _S.VERIFYING,
    (_S.OPENING, _M.DEADLINE): "auth_timeout",
    (_S.OPENING, _M.FAIL): _S.CLOSED,
    (_S.WAITING, _M.AUTH): _S.VERIFYING,
    (_S.WAITING, _M.MESSAGE): "auth_required",
    (_S.WAITING, _M.DEADLINE): "auth_timeout",
    (_S.WAITING, _M.FAIL): _S.CLOSED,
    (_S.VERIFYING, _M.AUTH): Hold.HOLD,
    (_S.VERIFYING, _M.MESSAGE): Hold.HOLD,
    (_S.VERIFYING, _M.ADMIT): _S.READY,
    (_S.VERIFYING, _M.DEADLINE): "auth_timeout",
    (_S.VERIFYING, _M.FAIL): _S.CLOSED,
    (_S.READY, _M.AUTH): _S.REFRESHING,
    (_S.READY, _M.MESSAGE): _S.READY,
    (_S.READY, _M.DEADLINE): "token_expired",
    (_S.READY, _M.FAIL): _S.CLOSED,
    (_S.REFRESHING, _M.AUTH): "too_many_in_flight",
    (_S.REFRESHING, _M.MESSAGE): _S.REFRESHING,
    (_S.REFRESHING, _M.ADMIT): _S.READY,
    (_S.REFRESHING, _M.KEEP): _S.READY,
    (_S.REFRESHING, _M.DEADLINE): "token_expired",
    (_S.REFRESHING, _M.FAIL): _S.CLOSED,
    # What arrives after the end is read and dropped, as RFC 6455, section 1.4, has it.
    (_S.CLOSED, _M.AUTH): _S.CLOSED,
    (_S.CLOSED, _M.MESSAGE): _S.CLOSED,
    (_S.CLOSED, _M.DEADLINE): _S.CLOSED,
    (_S.CLOSED, _M.FAIL): _S.CLOSED,
}


class ClientState(Enum):
    """Where a session stands, as the client sees it."""

    CONNECTED = "connected"
    AUTHENTICATING = "authenticating"
    READY = "ready"
    CLOSED = "closed"


class ClientMove(Enum):
    """What can happen to a session on the client."""

    AUTHENTICATE = "send auth"
    SEND = "send anything else"
    HELLO = "hello arrives"
    READY = "ready arrives"
    FATAL = "a fatal error arrives, or the connection ends"
    HEARTBEAT = "a ping or pong arrives"
    ERROR = "an error that is not fatal arrives"
    MESSAGE = "any other message of the protocol arrives"
    UNKNOWN = "an application's or an unknown message arrives"


_C, _N = ClientState, ClientMove

CLIENT_TABLE: Final[dict[tuple[ClientState, ClientMove], ClientState | str]] = {
    (_C.CONNECTED, _N.AUTHENTICATE): _C.AUTHENTICATING,
    (_C.CONNECTED, _N.SEND): "auth_required",
    (_C.CONNECTED, _N.HELLO): _C.CONNECTED,
    (_C.CONNECTED, _N.READY): "protocol_error",
    (_C.CONNECTED, _N.FATAL): _C.CLOSED,
    (_C.CONNECTED, _N.HEARTBEAT): _C.CONNECTED,
    (_C.CONNECTED, _N.ERROR): _C.CONNECTED,
    (_C.CONNECTED, _N.MESSAGE): "protocol_error",
    (_C.CONNECTED, _N.UNKNOWN): _C.CONNECTED,
    # A client need not wait for the hello.
    (_C.AUTHENTICATING, _N.AUTHENTICATE): "auth_required",
    (_C.AUTHENTICATING, _N.SEND): "auth_required",
    (_C.AUTHENTICATING, _N.HELLO): _C.AUTHENTICATING,
    (_C.AUTHENTICATING, _N.READY): _C.READY,
    (_C.AUTHENTICATING, _N.FATAL): _C.CLOSED,
    (_C.AUTHENTICATING, _N.HEARTBEAT): _C.AUTHENTICATING,
    (_C.AUTHENTICATING, _N.ERROR): _C.AUTHENTICATING,
    (_C.AUTHENTICATING, _N.MESSAGE): "protocol_error",
    (_C.AUTHENTICATING, _N.UNKNOWN): _C.AUTHENTICATING,
    (_C.READY, _N.AUTHENTICATE): _C.READY,
    (_C.READY, _N.SEND): _C.READY,
    (_C.READY, _N.HELLO): "protocol_error",
    (_C.READY, _N.READY): "protocol_error",
    (_C.READY, _N.FATAL): _C.CLOSED,
    (_C.READY, _N.HEARTBEAT): _C.READY,
    (_C.READY, _N.ERROR): _C.READY,
    (_C.READY, _N.MESSAGE): _C.READY,
    (_C.READY, _N.UNKNOWN): _C.READY,
    (_C.CLOSED, _N.FATAL): _C.CLOSED,
    (_C.CLOSED, _N.HELLO): _C.CLOSED,
    (_C.CLOSED, _N.READY): _C.CLOSED,
    (_C.CLOSED, _N.HEARTBEAT): _C.CLOSED,
    (_C.CLOSED, _N.ERROR): _C.CLOSED,
    (_C.CLOSED, _N.MESSAGE): _C.CLOSED,
    (_C.CLOSED, _N.UNKNOWN): _C.CLOSED,
    (_C.CLOSED, _N.AUTHENTICATE): "disconnected",
    (_C.CLOSED, _N.SEND): "disconnected",
}
