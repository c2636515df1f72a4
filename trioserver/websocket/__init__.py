"""RFC 6455 on Trio: frames, handshakes, the socket poller, listeners, TLS, send queues."""
