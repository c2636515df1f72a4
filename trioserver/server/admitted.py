"""A stream that has a slot, and the checks that each of its requests has to pass."""

from __future__ import annotations

import attrs
import trio

from trioserver.server.admission.connection_limiter import Slot
from trioserver.server.admission.controller import AdmissionController
from trioserver.websocket.handshake import Head, RequestRejected, refuse


@attrs.frozen(kw_only=True)
class AdmittedStream:
    """An accepted stream that holds a slot.

    - ``peer``: the address of the socket, or the one that a PROXY header has named.
    - ``remote``: the client's address, which differs from ``peer`` behind a trusted proxy.
    - ``builtin``: the stream came to the listener of the built-in routes, which serves nothing
      else and which the operator keeps away from clients.
    """

    stream: trio.abc.Stream
    slot: Slot
    peer: str
    remote: str
    builtin: bool
    _admission: AdmissionController

    def check(self, head: Head) -> None:
        """Raise `RequestRejected` for a banned address, a request rate that is exceeded, and a
        host that is not the server's. The listener of the built-in routes has no such checks.
        """
        if not self.builtin:
            self._admission.check(self.remote, head)
            self._admission.check_host(head)

    def is_local(self, head: Head) -> bool:
        """Whether a program on this machine sent the request, and not a proxy for somebody else."""
        return self._admission.is_local(self.peer, self.remote, head)

    async def refuse(self, bad: RequestRejected, head: Head | None) -> None:
        """Log and count the refusal, answer with it, and close the stream."""
        self._admission.refuse(bad, self.remote, head)
        with trio.CancelScope() as scope:
            self.slot.abort = scope.cancel
            self.slot.leaving()
            await refuse(self.stream, bad)
