"""What the HTTP side needs of the server: what endpoints ask, and what the administration does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from trioserver.app.application import Application, HealthCheck
from trioserver.auth import User
from trioserver.auth.blocks import Block
from trioserver.config import Config
from trioserver.server.administration import BlockResult
from trioserver.server.inspection import ConnectionFilter, ConnectionReport
from trioserver.telemetry.audit import Auditor
from trioserver.telemetry.metrics.statistics import ServerStatistics
from trioserver.telemetry.observer import AdminAction, AuthAttempt


class HostServer(Protocol):
    """The server as endpoints see it: ``scope["trioserver"]``."""

    @property
    def application(self) -> Application:
        """The application that is served."""

    @property
    def config(self) -> Config:
        """The configuration in force."""

    def statistics(self) -> ServerStatistics:
        """Return the numbers of this moment."""

    def health_checks(self) -> Mapping[str, HealthCheck]:
        """Return the checks of the server itself, by name."""

    def check_blocks(self, user: User) -> None:
        """Raise `Refusal` if an access block applies to the user."""

    def record_auth_attempt(self, attempt: AuthAttempt) -> None:
        """Tell the observers of an authentication, successful or not."""


class AdministeredServer(HostServer, Protocol):
    """The server as the administration sees it."""

    @property
    def audit(self) -> Auditor | None:
        """The audit log; None if there is none."""

    @property
    def clock(self) -> Callable[[], float]:
        """Returns seconds since the Unix epoch."""

    def inspect(self, connection: str) -> ConnectionReport | None:
        """Return the report of the connection with this id; None if there is no such connection."""

    def inspect_all(
        self, fitting: ConnectionFilter | None = None, *, limit: int | None = None
    ) -> list[ConnectionReport]:
        """Return reports of the connections that match, in the order of their ids."""

    def disconnect(
        self,
        *,
        user: str | None = None,
        token_id: str | None = None,
        resource: Mapping[str, str] | None = None,
        connection: str | None = None,
        message: str | None = None,
    ) -> int:
        """Close the connections that match everything given; return how many."""

    async def block(
        self,
        *,
        user: str | None = None,
        token_id: str | None = None,
        sid: str | None = None,
        resource: Mapping[str, str] | None = None,
        until: float | None = None,
        reason: str | None = None,
        actor: str | None = None,
    ) -> BlockResult:
        """Block access for whoever matches everything given, and close their connections."""

    async def unblock(
        self,
        id: str | None = None,
        *,
        user: str | None = None,
        token_id: str | None = None,
        sid: str | None = None,
        resource: Mapping[str, str] | None = None,
    ) -> int:
        """Remove the block with this id, or the blocks that name exactly what is given."""

    def blocked(
        self, *, user: str | None = None, after: str | None = None, limit: int | None = None
    ) -> tuple[Block, ...]:
        """Return the blocks in force, oldest first: those of a user, a page, or all."""

    def is_stored(self, block: Block) -> bool:
        """Whether the block survives a restart."""

    def start_draining(self, reason: str = "shutdown") -> None:
        """Begin to shut down."""

    def record_admin_action(self, action: AdminAction) -> None:
        """Tell the observers, the audit among them, of an administrative action."""
