"""What a client says when it has a message: ``mailbox.ack`` with the messages' ``ids``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Final, Protocol, TypeAlias

import msgspec
from msgspec import Meta

from protocol import Refusal
from trioserver.storage import DatabaseUnavailableError

ACKNOWLEDGE: Final = "mailbox.ack"

MessageId: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64)]


class AckPayload(msgspec.Struct):
    """The ids of messages that the client has. Ids of other users' messages are ignored."""

    ids: Annotated[list[MessageId], Meta(min_length=1, max_length=100)]


class _Mailbox(Protocol):
    async def acknowledge(self, user: str, ids: Sequence[str]) -> None: ...


def make_acknowledge(mailbox: _Mailbox) -> Callable[[Any, AckPayload], Awaitable[None]]:
    """Make the handler for ``mailbox.ack``.

    It answers when the messages have been deleted and cannot be delivered again.
    """

    async def acknowledge(connection: Any, payload: AckPayload) -> None:
        try:
            await mailbox.acknowledge(connection.user.id, payload.ids)
        except DatabaseUnavailableError:
            raise Refusal("unavailable") from None

    return acknowledge
