"""One connection, from its checked handshake to its last log line."""
