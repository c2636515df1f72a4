"""What the server needs of its HTTP side, which whoever composes the two hands to it."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from trioserver.server.admitted import AdmittedStream
from trioserver.websocket.handshake import Head


class HttpSide(Protocol):
    """Answers all requests that are not opening handshakes."""

    def running(self) -> AbstractAsyncContextManager[None]:
        """Start the mounted applications; stop them on exit. Connections are served inside."""

    def has_builtin(self, path: str) -> bool:
        """Whether a built-in route answers this path on the port of the WebSockets."""

    async def serve(self, admitted: AdmittedStream, head: Head) -> Head | None:
        """Serve a stream whose first head, ``head``, has been read and checked.

        Return the head of an opening handshake if one of the later requests is that; the stream
        is open then. Otherwise the stream is done with. Before this waits for the first time, it
        sets ``evict`` and ``abort`` of the stream's slot.
        """

    async def drain(self, deadline: float) -> None:
        """End each connection after its current response. Return at ``deadline`` at the latest.

        ``deadline`` is in Trio's time. The caller cancels the connections that are left then.
        """
