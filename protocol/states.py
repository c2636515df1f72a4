"""The state machine of a connection as two tables, one for each side.

Each table maps (state, trigger) to the next state, or to the code of the error (`protocol.errors`)
that the trigger causes in this state. A pair that is in neither table cannot happen. The diagrams
in the docs are generated from these tables.

Server: nothing of the application runs before READY, and there is one road to it:

    OPENING -start-> WAITING -auth-> VERIFYING -accept-> READY
                                                        READY -auth-> REFRESHING -accept-> READY

A token in the query string replaces the first message: OPENING goes to VERIFYING.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, TypeAlias


class ServerState(Enum):
    """State of a connection, on the server."""

    OPENING = "opening"
    WAITING = "waiting"
    VERIFYING = "verifying"
    READY = "ready"
    REFRESHING = "refreshing"
    CLOSED = "closed"


class ServerTrigger(Enum):
    """What can change the state on the server."""

    START = "start"
    START_VERIFYING = "start with a token in the query string"
    AUTH = "an auth message arrives"
    MESSAGE = "any other message arrives"
    ACCEPT = "the token is valid and the user authorized"
    REJECT_REFRESH = "a refresh could not be verified now; the old token still counts"
    DEADLINE = "the deadline passes"
    FAIL = "an error or an end"


class Hold(Enum):
    """The message waits, within a bound, until the verification has ended."""

    HOLD = "held until ready"


ServerOutcome: TypeAlias = ServerState | Hold | str

_S, _T = ServerState, ServerTrigger

SERVER_TABLE: Final[dict[tuple[ServerState, ServerTrigger], ServerOutcome]] = {
    (_S.OPENING, _T.START): _S.WAITING,
    (_S.OPENING, _T.START_VERIFYING): _S.VERIFYING,
    (_S.OPENING, _T.DEADLINE): "auth_timeout",
    (_S.OPENING, _T.FAIL): _S.CLOSED,
    (_S.WAITING, _T.AUTH): _S.VERIFYING,
    (_S.WAITING, _T.MESSAGE): "auth_required",
    (_S.WAITING, _T.DEADLINE): "auth_timeout",
    (_S.WAITING, _T.FAIL): _S.CLOSED,
    (_S.VERIFYING, _T.AUTH): Hold.HOLD,
    (_S.VERIFYING, _T.MESSAGE): Hold.HOLD,
    (_S.VERIFYING, _T.ACCEPT): _S.READY,
    (_S.VERIFYING, _T.DEADLINE): "auth_timeout",
    (_S.VERIFYING, _T.FAIL): _S.CLOSED,
    (_S.READY, _T.AUTH): _S.REFRESHING,
    (_S.READY, _T.MESSAGE): _S.READY,
    (_S.READY, _T.DEADLINE): "token_expired",
    (_S.READY, _T.FAIL): _S.CLOSED,
    (_S.REFRESHING, _T.AUTH): "too_many_in_flight",
    (_S.REFRESHING, _T.MESSAGE): _S.REFRESHING,
    (_S.REFRESHING, _T.ACCEPT): _S.READY,
    (_S.REFRESHING, _T.REJECT_REFRESH): _S.READY,
    (_S.REFRESHING, _T.DEADLINE): "token_expired",
    (_S.REFRESHING, _T.FAIL): _S.CLOSED,
    # Messages that arrive after the end are read and dropped (RFC 6455, section 1.4).
    (_S.CLOSED, _T.AUTH): _S.CLOSED,
    (_S.CLOSED, _T.MESSAGE): _S.CLOSED,
    (_S.CLOSED, _T.DEADLINE): _S.CLOSED,
    (_S.CLOSED, _T.FAIL): _S.CLOSED,
}


class ClientState(Enum):
    """State of a connection, on the client."""

    CONNECTED = "connected"
    AUTHENTICATING = "authenticating"
    READY = "ready"
    CLOSED = "closed"


class ClientTrigger(Enum):
    """What can change the state on the client."""

    AUTHENTICATE = "send auth"
    SEND = "send anything else"
    HELLO = "hello arrives"
    READY = "ready arrives"
    FATAL = "a fatal error arrives, or the connection ends"
    HEARTBEAT = "a ping or pong arrives"
    ERROR = "an error that is not fatal arrives"
    MESSAGE = "any other message of the protocol arrives"
    UNKNOWN = "an application's or an unknown message arrives"


_C, _N = ClientState, ClientTrigger

CLIENT_TABLE: Final[dict[tuple[ClientState, ClientTrigger], ClientState | str]] = {
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
