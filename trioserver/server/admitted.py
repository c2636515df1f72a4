"""A stream that has a slot, and the checks that each of its requests has to pass."""

from __future__ import annotations

import attrs
import trio

from trioserver.peers.origins import OriginPolicy
from trioserver.server.admission.controller import AdmissionController
from trioserver.server.admission.slot import Slot
from trioserver.websocket.handshake import Head, RequestRejected, refuse
from trioserver.websocket.tls_stream import is_secure


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

    def check_origin(self, head: Head, policy: OriginPolicy | None) -> None:
        """Raise `RequestRejected` unless pages of the request's origin may connect.

        ``policy`` is the route's; None: ``origins.allow`` decides.
        """
        secure = is_secure(self.stream)
        self._admission.policy.check_origin(self.peer, head, policy, secure=secure)

    def is_local(self, head: Head) -> bool:
        """Whether a program on this machine sent the request, and not a proxy for somebody else."""
        return self._admission.policy.is_local(self.peer, self.remote, head)

    async def refuse(self, rejection: RequestRejected, head: Head | None) -> None:
        """Report a rejection, answer with it, and close the stream."""
        self._admission.rejections.rejected(rejection, self.remote, head)
        with trio.CancelScope() as scope:
            self.slot.abort = scope.cancel
            self.slot.closing()
            await refuse(self.stream, rejection)
