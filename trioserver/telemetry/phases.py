"""When the phases of a connection ended, for the line in the log and the metrics."""

from __future__ import annotations

import attrs


@attrs.define
class Timings:
    """When each phase ended, by Trio's clock; None for those that were not reached."""

    begun: float
    accepted: float | None = None
    auth_received: float | None = None
    authenticated: float | None = None
    owned: float | None = None
    ready: float | None = None
    ended: float | None = None

    def phases(self, now: float) -> dict[str, float]:
        """The length of each phase that was reached, in seconds; closing ends now."""
        names = ("handshake", "waiting", "authentication", "ownership", "answer", "running")
        ends = (self.accepted, self.auth_received, self.authenticated, self.owned, self.ready)
        ended = now if self.ended is None else self.ended
        lengths: dict[str, float] = {}
        start = self.begun
        for name, end in zip(names, (*ends, None), strict=True):
            lengths[name] = (ended if end is None else end) - start
            if end is None:
                break
            start = end
        lengths["closing"] = now - ended
        return lengths

    def phases_ms(self, now: float) -> dict[str, int]:
        """The same in whole ms, as the log has it."""
        return {f"{name}_ms": round(length * 1000) for name, length in self.phases(now).items()}
