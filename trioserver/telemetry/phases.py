"""The phases of a connection, and when it entered each: for reports, log lines and metrics."""

from __future__ import annotations

from enum import StrEnum

import attrs


class Phase(StrEnum):
    """A phase of a connection's life, in order. A connection may skip to `CLOSING` from any."""

    HANDSHAKE = "handshake"
    """From the accepted stream to the answered opening handshake."""
    AWAITING_AUTH = "awaiting_auth"
    """Until the token has arrived."""
    AUTHENTICATING = "authenticating"
    """Until the authenticator has returned the user."""
    AUTHORIZING = "authorizing"
    """Until the authorizer has succeeded and `ready` has been written to the transport."""
    READY = "ready"
    """Messages are handled. Registry, presence, observers, audit and hooks see it from here on."""
    CLOSING = "closing"
    """The session has ended. The error, if any, and the Close frame are still being sent."""


_ORDER = tuple(Phase)
_REVERSED = tuple(reversed(_ORDER))


@attrs.define(eq=False)
class PhaseTimes:
    """When a connection entered each phase, in seconds of Trio's clock; None if it has not.

    `enter` is the only place where a connection changes its phase.
    """

    handshake: float
    awaiting_auth: float | None = None
    authenticating: float | None = None
    authorizing: float | None = None
    ready: float | None = None
    closing: float | None = None

    def enter(self, phase: Phase, now: float) -> None:
        """Enter a phase, unless the connection has been in it already."""
        if getattr(self, phase) is None:
            setattr(self, phase, now)

    @property
    def current(self) -> Phase:
        """The phase that the connection is in."""
        return next(phase for phase in _REVERSED if getattr(self, phase) is not None)

    def lengths(self, now: float) -> dict[Phase, float]:
        """Return the seconds spent in each phase that was entered. ``closing`` is always there."""
        closing = now if self.closing is None else self.closing
        lengths: dict[Phase, float] = {}
        last, since = Phase.HANDSHAKE, self.handshake
        for phase in _ORDER[1:-1]:
            entered: float | None = getattr(self, phase)
            if entered is not None:
                lengths[last] = entered - since
                last, since = phase, entered
        lengths[last] = closing - since
        lengths[Phase.CLOSING] = now - closing
        return lengths

    def lengths_ms(self, now: float) -> dict[str, int]:
        """Return `lengths` as fields of a log line: ``ready_ms`` and so on, in milliseconds."""
        return {f"{phase}_ms": round(length * 1000) for phase, length in self.lengths(now).items()}
