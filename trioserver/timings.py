"""When the phases of a connection ended, for the line in the log."""

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

    def phases(self, now: float) -> dict[str, int]:
        """The length of each phase that was reached, in ms; closing ends now."""
        names = ("handshake", "waiting", "authentication", "ownership", "answer", "running")
        ends = (self.accepted, self.auth_received, self.authenticated, self.owned, self.ready)
        ended = now if self.ended is None else self.ended
        lengths: dict[str, int] = {}
        start = self.begun
        for name, end in zip(names, (*ends, None), strict=True):
            lengths[f"{name}_ms"] = round(((ended if end is None else end) - start) * 1000)
            if end is None:
                break
            start = end
        lengths["closing_ms"] = round((now - ended) * 1000)
        return lengths
