"""How the server says no over HTTP: a status, and a JSON object with a code and a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

HEADERS = {"Cache-Control": "no-store"}


class ApiError(Exception):
    """Ends a request. ``message`` is for people, and quotes nothing secret."""

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers or {}

    @property
    def response(self) -> Response:
        """What the client gets."""
        return self.respond()

    def respond(self, **fields: Any) -> Response:
        """The same, with more fields beside the error."""
        body = {**fields, "error": {"code": self.code, "message": self.message}}
        return JSONResponse(body, self.status, headers={**HEADERS, **self.headers})


_CODES = {404: "not_found", 405: "method_not_allowed"}


def of_http_exception(error: HTTPException) -> ApiError:
    """For a path or a method that there is not."""
    message = HTTPStatus(error.status_code).phrase + "."
    code = _CODES.get(error.status_code, "bad_request")
    return ApiError(error.status_code, code, message, error.headers)


def unavailable(message: str) -> ApiError:
    """The fault is the server's, and may pass."""
    return ApiError(503, "unavailable", message, {"Retry-After": "1"})


def invalid(message: str) -> ApiError:
    """Parameters or a body that do not fit."""
    return ApiError(400, "invalid_payload", message)


def ok(content: Any, status: int = 200) -> Response:
    """An answer that nobody may keep."""
    return JSONResponse(content, status, headers=HEADERS)
