"""RFC 6455 on Trio: frames, handshakes, readiness, listeners, the send queue."""
