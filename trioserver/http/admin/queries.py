"""The administration's endpoints that change nothing: connections, blocks, numbers, audit."""

from __future__ import annotations

import attrs
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from trioserver.http.admin import payloads
from trioserver.http.admin.payloads import given, pair, parameters, seconds
from trioserver.http.admin.views import block_view, connection_view
from trioserver.http.errors import ApiError, invalid, ok
from trioserver.http.host_server import AdministeredServer
from trioserver.server.inspection import ConnectionFilter
from trioserver.telemetry.audit import AuditQuery


class Queries:
    """Each method is an endpoint. A list comes in pages: ``next`` is the ``after`` of the next."""

    def __init__(self, server: AdministeredServer) -> None:
        self._server = server

    async def connections(self, request: HttpRequest) -> Response:
        """``GET /connections``."""
        query = parameters(request, payloads.ConnectionsQuery)
        fitting = ConnectionFilter(
            user=query.user,
            token_id=query.token_id,
            resource=pair("resource", query.resource),
            route=query.route,
            address=query.address,
            phase=query.phase,
            after=query.after,
        )
        found = self._server.inspect_all(fitting, limit=query.limit)
        more = found[-1].id if len(found) == query.limit else None
        shown = [connection_view(report, tasks=False) for report in found]
        return ok({"connections": shown, "next": more})

    async def connection(self, request: HttpRequest) -> Response:
        """``GET /connections/{id}``."""
        parameters(request, payloads.Nothing)
        report = self._server.inspect(request.path_params["id"])
        if report is None:
            raise ApiError(404, "not_found", "There is no such connection; it may have ended.")
        return ok(connection_view(report, tasks=True))

    async def blocks(self, request: HttpRequest) -> Response:
        """``GET /blocks``."""
        query = parameters(request, payloads.BlocksQuery)
        one_more = query.limit + 1
        blocks = self._server.blocked(user=query.user, after=query.after, limit=one_more)
        page = blocks[: query.limit]
        more = page[-1].id if len(blocks) > query.limit else None
        shown = [block_view(block, stored=self._server.is_stored(block)) for block in page]
        return ok({"blocks": shown, "next": more})

    async def statistics(self, request: HttpRequest) -> Response:
        """``GET /statistics``."""
        parameters(request, payloads.Nothing)
        return ok(attrs.asdict(self._server.statistics()))

    async def audit(self, request: HttpRequest) -> Response:
        """``GET /audit``."""
        values = parameters(request, payloads.AuditParameters)
        names = (
            "kind", "outcome", "code", "user", "address", "route", "method", "before", "limit",
        )  # fmt: skip
        try:
            query = AuditQuery(
                since=seconds("since", values.since),
                until=seconds("until", values.until),
                **given(values, *names),
            )
        except ValueError as error:
            raise invalid(f"{error}.") from None
        if self._server.audit is None:
            message = "There is no audit log: the option audit.database is not set."
            raise ApiError(404, "not_found", message)
        page = await self._server.audit.query(query)
        return ok({"entries": [entry.as_json() for entry in page.entries], "next": page.next})
