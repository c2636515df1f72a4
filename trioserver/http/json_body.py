"""Read the body of a request as JSON, with a bound and a deadline."""

from __future__ import annotations

from contextlib import aclosing
from typing import TypeVar

import msgspec
import trio
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest

from trioserver.http.errors import ApiError, invalid

_T = TypeVar("_T")


async def read_json(
    request: HttpRequest, kind: type[_T], *, max_bytes: int = 64 * 1024, timeout: float = 10.0
) -> _T:
    """Return the body as a msgspec Struct, an attrs class, or plain JSON types.

    Raises `ApiError` if the body is larger than ``max_bytes``, takes longer than ``timeout``
    seconds, or does not match ``kind``. Its message names the path of a field, never a value.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise ApiError(
            415,
            "unsupported_media_type",
            "The body must be JSON, with Content-Type: application/json.",
        )
    data = bytearray()
    try:
        with trio.fail_after(timeout):
            async with aclosing(request.stream()) as pieces:
                async for piece in pieces:
                    data += piece
                    if len(data) > max_bytes:
                        message = f"The body is larger than {max_bytes} bytes."
                        raise ApiError(413, "body_too_big", message)
    except trio.TooSlowError:
        raise ApiError(408, "timeout", "The body did not arrive in time.") from None
    except ClientDisconnect:
        raise ApiError(400, "bad_request", "The client closed the connection.") from None
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        text = str(error) if isinstance(error, msgspec.ValidationError) else "The body is not JSON"
        raise invalid(f"{text}.") from None
