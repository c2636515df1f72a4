"""What presence knows of a connection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from msgspec import UNSET

from trioserver.auth import User


class Member(Protocol):
    """An authenticated connection; `Connection` is one. See there for what the methods do."""

    @property
    def id(self) -> str:
        """Identifies the connection."""

    @property
    def user(self) -> User:
        """The authenticated user."""

    @property
    def path_params(self) -> Mapping[str, str]:
        """The parameters of the path that the client connected to."""

    @property
    def state(self) -> dict[str, Any]:
        """What the application keeps for this connection."""

    @property
    def topics(self) -> frozenset[str]:
        """The topics that the client is subscribed to."""

    @property
    def has_ended(self) -> bool:
        """Whether nothing can be sent any more."""

    async def send(
        self, type: str, data: Any = UNSET, *, fields: Mapping[str, Any] | None = None
    ) -> None:
        """Send a message when there is room for it."""

    def send_nowait(
        self, type: str, data: Any = UNSET, *, fields: Mapping[str, Any] | None = None
    ) -> None:
        """Send a message without waiting."""

    def disconnect(self, code: str = "disconnected", message: str | None = None) -> None:
        """End the connection with an error."""
