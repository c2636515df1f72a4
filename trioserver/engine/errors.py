"""What an engine raises."""

from __future__ import annotations

from typing import ClassVar


class EngineUnavailableError(Exception):
    """The engine did not answer in time, or could not be reached.

    ``sent`` is False if nothing was done, and True if nobody knows: the command was handed to a
    connection that then failed.
    """

    safe_to_log: ClassVar = True

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class EngineConfigurationError(Exception):
    """The engine can be reached and cannot be used as it is configured: a wrong password, a
    database that does not exist, a Redis Cluster. Trying again does not help."""

    safe_to_log: ClassVar = True


class WrongThreadError(RuntimeError):
    """A method was called from a thread that does not run the server."""
