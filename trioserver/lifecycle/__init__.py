"""One connection, from its judged handshake to its last line."""
