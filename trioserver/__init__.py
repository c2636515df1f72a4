"""A WebSocket server that knows who is on the other end."""

__version__ = "0.1.0"
