"""What an operator does to a server: listening, new keys and options, draining, systemd."""
