"""What a client says when it has a message: ``mailbox.ack`` with the messages' ``ids``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta

from protocol import Refusal
from trioserver.storage import DatabaseUnavailable

if TYPE_CHECKING:
    from trioserver.app.connection import Connection

ACKNOWLEDGE: Final = "mailbox.ack"

LetterId: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64)]


class Acknowledged(msgspec.Struct):
    """The payload. Ids that are no message of this user's change nothing."""

    ids: Annotated[list[LetterId], Meta(min_length=1, max_length=100)]


async def acknowledge(connection: Connection, acknowledged: Acknowledged) -> None:
    """Forget messages; the answer comes when they will not be delivered again."""
    mailbox = connection.route._mailbox
    assert mailbox is not None, "only such routes have this handler"
    try:
        await mailbox.acknowledge(connection.user.id, acknowledged.ids)
    except DatabaseUnavailable:
        raise Refusal("unavailable") from None
