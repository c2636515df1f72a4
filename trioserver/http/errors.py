"""Errors over HTTP: a status, and a JSON object with a code and a message."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

HEADERS = {"Cache-Control": "no-store"}


class ApiError(Exception):
    """Ends a request with this error. ``message`` is for people, and must quote nothing secret."""

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
        """The response to the client."""
        return self.respond()

    def respond(self, **fields: Any) -> Response:
        """Return the response, with ``fields`` beside the error."""
        body = {**fields, "error": {"code": self.code, "message": self.message}}
        return JSONResponse(body, self.status, headers={**HEADERS, **self.headers})


_CODES = {404: "not_found", 405: "method_not_allowed"}


def of_http_exception(error: HTTPException) -> ApiError:
    """Return the error for a path or method that does not exist."""
    message = HTTPStatus(error.status_code).phrase + "."
    code = _CODES.get(error.status_code, "bad_request")
    return ApiError(error.status_code, code, message, error.headers)


def unavailable(message: str) -> ApiError:
    """Return the error for a fault of the server that may pass."""
    return ApiError(503, "unavailable", message, {"Retry-After": "1"})


def invalid(message: str) -> ApiError:
    """Return the error for invalid parameters or an invalid body."""
    return ApiError(400, "invalid_payload", message)


def ok(content: Any, status: int = 200) -> Response:
    """Return a response with ``content`` as JSON, which must not be cached."""
    return JSONResponse(content, status, headers=HEADERS)
