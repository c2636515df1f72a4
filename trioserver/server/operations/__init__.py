"""Operating a server: listeners, reloading, draining, signals, systemd, garbage collection."""
