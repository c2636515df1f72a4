"""Messages for users who may not be connected: kept in a database, delivered at the next `ready`.

A message is stored before it is delivered, and deleted after. When it counts as delivered depends
on the client:

- A client that sends ``"mailbox": "ack"`` in `auth` acknowledges messages. A message is deleted
  when the client acknowledges it. Until then it is delivered again, with the same ``id``, on the
  next connection.
- For any other client, a message is deleted when its last byte has been handed to the transport.

So a message is lost only if the client loses it, or if a client does not acknowledge and its
connection breaks while bytes are on their way. A message is delivered twice if the server is killed
between the delivery and the deletion; the ``id`` is then the same.
"""

from trioserver.app.mailbox.capacity import MailboxFullError
from trioserver.app.mailbox.mailbox import Mailbox, SendReceipt

__all__ = ["Mailbox", "MailboxFullError", "SendReceipt"]
