"""The server around its connections: listening, admission, shutdown, administration."""
