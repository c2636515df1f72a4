"""RFC 6455 on Trio: the stream that trio-websocket sees, the listener, the outbox."""
