"""A connection as a mailbox delivers to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from protocol import Refusal, TooBigToSendError
from trioserver.lifecycle.server_connection import ServerConnection
from trioserver.logs.lines import may_log
from trioserver.websocket.headers import MAX_HEADER
from trioserver.websocket.send_queue import SendQueueClosed


class MailboxRecipient:
    """See `trioserver.app.mailbox.recipient.Recipient`. The connection has been authenticated."""

    __slots__ = ("_connection", "_send_queue", "user_id")

    def __init__(self, connection: ServerConnection) -> None:
        assert connection.user is not None, "it is ready"
        self._connection = connection
        self._send_queue = connection.websocket.send_queue
        self.user_id = connection.user.id

    @property
    def path_params(self) -> Mapping[str, str]:
        """See `Recipient`."""
        return self._connection.path_params

    @property
    def acknowledges(self) -> bool:
        """See `Recipient`."""
        return self._connection.acknowledges

    def queue(self, message: bytes) -> int | None:
        """See `Recipient`."""
        connection = self._connection
        if not connection.has_ended:
            try:
                connection.transmit(message)
            except TooBigToSendError:  # the options have changed since it was stored
                if may_log("mailbox_message_too_big", user=self.user_id):
                    connection.log.error("mailbox_message_too_big", size=len(message))
                return None
        return None if connection.has_ended else self._send_queue.position

    async def wait_room(self, size: int) -> None:
        """See `Recipient`."""
        await self._send_queue.wait_room(size + MAX_HEADER)

    def is_flushed(self, position: int) -> bool:
        """See `Recipient`."""
        return self._send_queue.is_flushed(position)

    async def wait_flushed(self, position: int) -> bool:
        """See `Recipient`."""
        try:
            await self._send_queue.wait_flushed(position)
        except SendQueueClosed:
            return False
        return self._send_queue.is_flushed(position)

    def call_when_flushed(self, position: int, function: Callable[[], None]) -> None:
        """See `Recipient`."""
        self._send_queue.call_when_flushed(position, function)

    def fail_as_slow(self) -> None:
        """See `Recipient`."""
        self._connection.fail(Refusal("slow_consumer"))
