"""Messages for users, who may be away: kept in a database, and delivered at the next `ready`.

What is sent is stored before it is delivered, and forgotten once it has been. When that is depends
on the client:

- one that sends ``"mailbox": "ack"`` in `auth` acknowledges: a message is forgotten when the client
  says that it has it, and comes again, with the same ``id``, until then;
- for any other, a message is forgotten when its last byte has left for the client.

So a message is lost only with the client's own memory, or, for a client that does not acknowledge,
with a connection that dies with bytes on their way. It comes twice when the server is killed in the
moment between a delivery and its record: the ``id`` tells.
"""

from trioserver.app.mailbox.capacity import MailboxFullError
from trioserver.app.mailbox.mailbox import Mailbox, SendReceipt

__all__ = ["Mailbox", "MailboxFullError", "SendReceipt"]
