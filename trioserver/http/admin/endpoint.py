"""What the administration's endpoints have in common: their form, their bodies, their records."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias, TypeVar

import msgspec
import trio
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from trioserver.http.admin import payloads
from trioserver.http.bearer import Caller
from trioserver.http.host_server import AdministeredServer
from trioserver.http.json_body import read_json
from trioserver.telemetry.observer import AdminAction

Endpoint: TypeAlias = Callable[[HttpRequest], Awaitable[Response]]

_Struct = TypeVar("_Struct", bound=msgspec.Struct)


async def read_body(
    server: AdministeredServer, request: HttpRequest, kind: type[_Struct]
) -> _Struct:
    """Return the body as a struct. Raises `ApiError`, also if the query has parameters."""
    payloads.parameters(request, payloads.Nothing)
    config = server.config.admin
    return await read_json(
        request, kind, max_bytes=config.max_body_bytes, timeout=config.body_timeout
    )


def caller_of(request: HttpRequest) -> Caller:
    """Return the administrator who sent the request."""
    caller: Caller = request.scope["trioserver.admin"][0]
    return caller


def record_action(
    server: AdministeredServer,
    request: HttpRequest,
    name: str,
    target: Mapping[str, Any],
    affected: int,
) -> None:
    """Tell the observers, the audit among them, what the administrator has done."""
    started: float = request.scope["trioserver.admin"][1]
    caller = caller_of(request)
    server.record_admin_action(
        AdminAction(
            actor=caller.user.id,
            name=name,
            target=_flat(target),
            affected=affected,
            remote=caller.remote,
            path=request.url.path,
            token_id=caller.user.token_id,
            token=caller.token,
            duration=trio.current_time() - started,
        )
    )


def _flat(target: Mapping[str, Any]) -> dict[str, str]:
    """Return a resource's parameters as "resource.name"."""
    flat: dict[str, str] = {}
    for name, value in target.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": text for inner, text in value.items()}
        else:
            flat[name] = str(value)
    return flat
