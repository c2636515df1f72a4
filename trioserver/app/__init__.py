"""What an application is written with: routes, handlers, connections, presence, mailbox."""
