"""The administration's endpoints that change something: disconnect, block, unblock, drain."""

from __future__ import annotations

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from trioserver.auth.blocks import TooManyBlocksError
from trioserver.http.admin import payloads
from trioserver.http.admin.endpoint import caller_of, read_body, record_action
from trioserver.http.admin.payloads import given, seconds
from trioserver.http.admin.views import block_view
from trioserver.http.errors import ApiError, invalid, ok
from trioserver.http.host_server import AdministeredServer


class Actions:
    """Each method is an endpoint. What it did is recorded."""

    def __init__(self, server: AdministeredServer) -> None:
        self._server = server

    async def disconnect(self, request: HttpRequest) -> Response:
        """``POST /disconnect``."""
        wanted = await read_body(self._server, request, payloads.Disconnect)
        target = given(wanted, "user", "token_id", "resource", "connection")
        if not target:
            raise invalid("Name what to disconnect: user, token_id, resource or connection.")
        number = self._server.disconnect(**target, message=wanted.message)
        record_action(self._server, request, "disconnect", target, number)
        return ok({"disconnected": number})

    async def block(self, request: HttpRequest) -> Response:
        """``POST /blocks``."""
        wanted = await read_body(self._server, request, payloads.BlockRequest)
        target = given(wanted, "user", "token_id", "sid", "resource")
        until = self._until(wanted)
        try:
            done = await self._server.block(
                **target, until=until, reason=wanted.reason, actor=caller_of(request).user.id
            )
        except ValueError as error:
            raise invalid(f"{error}.") from None
        except TooManyBlocksError as error:
            raise ApiError(409, "too_many_blocks", f"{error}.") from None
        target["id"] = done.block.id
        record_action(self._server, request, "block", target, done.disconnected)
        later = not done.stored and self._server.audit is not None
        shown = block_view(done.block, stored=done.stored)
        return ok({"block": shown, "disconnected": done.disconnected}, 202 if later else 201)

    def _until(self, wanted: payloads.BlockRequest) -> float | None:
        if wanted.until is not None and wanted.for_ms is not None:
            raise invalid("Give either until or for_ms, not both.")
        now = self._server.clock()
        until = seconds("until", wanted.until)
        if wanted.for_ms is not None:
            until = now + wanted.for_ms / 1000
        if until is not None and until <= now:
            raise invalid("until is in the past.")
        return until

    async def unblock(self, request: HttpRequest) -> Response:
        """``POST /unblock``."""
        wanted = await read_body(self._server, request, payloads.Unblock)
        target = given(wanted, "id", "user", "token_id", "sid", "resource")
        if not target:
            raise invalid("Name what to unblock: id, user, token_id, sid or resource.")
        number = await self._server.unblock(**target)
        record_action(self._server, request, "unblock", target, number)
        return ok({"unblocked": number})

    async def drain(self, request: HttpRequest) -> Response:
        """``POST /drain``."""
        wanted = await read_body(self._server, request, payloads.Drain)
        target, number = {"reason": wanted.reason}, self._server.statistics().open
        record_action(self._server, request, "drain", target, number)
        self._server.start_draining(wanted.reason)
        return ok({"draining": True}, 202)
