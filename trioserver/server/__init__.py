"""The server around its connections: its public face, admission, and operation."""
