"""What a mailbox needs of a connection that it delivers messages to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol


class Recipient(Protocol):
    """A connection that is ready. Positions count what has been queued for the client.

    A message has been flushed when its last byte has been handed to the transport.
    """

    @property
    def user_id(self) -> str:
        """The id of the authenticated user."""

    @property
    def path_params(self) -> Mapping[str, str]:
        """The parameters of the path that the client connected to."""

    @property
    def acknowledges(self) -> bool:
        """Whether the client sends ``mailbox.ack`` for each message."""

    def queue(self, message: bytes) -> int | None:
        """Queue an encoded message, and return its position.

        Return None if it was not queued: the connection has ended, or ends because of it, or the
        message is larger than the largest that can be sent.
        """

    async def wait_room(self, size: int) -> None:
        """Wait until a message of ``size`` bytes can be queued, or the connection has ended."""

    def is_flushed(self, position: int) -> bool:
        """Whether the message at ``position`` has been flushed."""

    async def wait_flushed(self, position: int) -> bool:
        """Wait until the message is flushed. Return False if the connection ends before."""

    def call_when_flushed(self, position: int, function: Callable[[], None]) -> None:
        """Call ``function`` as soon as the message is flushed; never if that does not happen.

        One call can wait at a time.
        """

    def fail_as_slow(self) -> None:
        """End the connection with ``slow_consumer``."""
