"""Receive one file over HTTP: in a form, as browsers send it, or as the body, with ``?name=``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import trio
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message

from trioserver import Refusal

MAX_BYTES: Final = 8 * 1024 * 1024
"""Maximum bytes of one file."""

RECEIVE_TIMEOUT: Final = 30.0  # seconds, for all of it

AT_ONCE: Final = 4
"""Uploads of all users that are received and read concurrently. A user may have one."""

_FORM_BYTES: Final = 64 * 1024
"""Bytes that a form may have beside the file."""

_TOO_LARGE: Final = f"A file may have at most {MAX_BYTES // 2**20} MiB."


class Uploads:
    """Limits concurrent uploads, because they are held in memory."""

    def __init__(self) -> None:
        self._users: set[str] = set()

    @contextmanager
    def turn(self, user_id: str) -> Iterator[None]:
        """Count an upload. Raises `Refusal` with ``rate_limited`` or ``unavailable``."""
        if user_id in self._users:
            raise Refusal("rate_limited", "Upload one file at a time.", retry_after=1.0)
        if len(self._users) >= AT_ONCE:
            message = "The server is processing too many files. Try again later."
            raise Refusal("unavailable", message, retry_after=2.0)
        self._users.add(user_id)
        try:
            yield
        finally:
            self._users.discard(user_id)


async def receive_file(request: Request) -> tuple[str, bytes]:
    """The file's name and its content.

    A form has it as ``file``; anything else is the file itself, and its name is in the query, as
    ``name``. Raises `Refusal`: ``bad_request``, ``too_large`` or ``too_slow``.
    """
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > MAX_BYTES + _FORM_BYTES:
        raise Refusal("too_large", _TOO_LARGE)
    counted = Request(request.scope, _Counted(request))
    is_form = request.headers.get("content-type", "").lower().startswith("multipart/form-data")
    with trio.move_on_after(RECEIVE_TIMEOUT):
        name, data = await (_from_form(counted) if is_form else _as_it_is(counted))
        if len(data) > MAX_BYTES:
            raise Refusal("too_large", _TOO_LARGE)
        return name, data
    raise Refusal("too_slow", "The file took too long to arrive.")


class _Counted:
    """ASGI's ``receive``, up to a limit, whatever the header has said."""

    def __init__(self, request: Request) -> None:
        self._receive = request.receive
        self._left = MAX_BYTES + _FORM_BYTES

    async def __call__(self) -> Message:
        message = await self._receive()
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise Refusal("too_large", _TOO_LARGE)
        return message


async def _from_form(request: Request) -> tuple[str, bytes]:
    try:
        async with request.form(max_files=1, max_fields=8, max_part_size=_FORM_BYTES) as form:
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise Refusal("bad_request", "The form has no file in the field `file`.")
            return file.filename or "", await file.read(MAX_BYTES + 1)
    except HTTPException as error:
        raise Refusal("bad_request", f"The form cannot be read: {error.detail}") from None


async def _as_it_is(request: Request) -> tuple[str, bytes]:
    name = request.query_params.get("name")
    if name is None:
        raise Refusal("bad_request", "The file needs a name: add ?name=notes.md, or send a form.")
    return name, await request.body()
