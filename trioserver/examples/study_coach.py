"""A study coach: upload texts over HTTP, ask about them over a WebSocket, ``/api/chat/ws``.

Only pages of the origins on the list may connect; others get 403 before the handshake. A greeting
comes before authentication, so that a plain command-line client sees that it is right here. Each
user sees and searches only their own texts. A question is answered as a stream: first the passages
that the answer rests on, then its text, by a responder that can be exchanged.

Run it: ``trioserver demo``. To have a language model answer, set TRIOSERVER_COACH_URL to an
OpenAI-compatible endpoint, and TRIOSERVER_COACH_KEY and TRIOSERVER_COACH_MODEL to go with it.
"""

from __future__ import annotations

import math
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager
from typing import Annotated, Any, Final

import attrs
import msgspec
import structlog
import trio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from trioserver import Application, Connection, Database, DatabaseUnavailableError, Refusal
from trioserver.auth import Authenticator
from trioserver.examples.study.documents import Reader, kind_of, plain_name
from trioserver.examples.study.library import STEPS, Library
from trioserver.examples.study.openai import Endpoint, OpenAIResponder
from trioserver.examples.study.passages import cut
from trioserver.examples.study.responders import Composer, Responder
from trioserver.examples.study.uploads import Uploads, receive_file
from trioserver.examples.upgrade import upgrade
from trioserver.http.api import EXCEPTION_HANDLERS, ApiError, authenticate, refuse

PATH: Final = "/api/chat/ws"
TEXTS: Final = "/api/chat/texts"

ORIGINS_VARIABLE: Final = "TRIOSERVER_COACH_ORIGINS"

ORIGINS: Final = ("same-host", "http://localhost:5173")
"""The pages of this server, and those of Vite's development server."""

GREETING: Final = "Welcome to the study coach."

PASSAGES: Final = 4
"""Maximum number of passages for an answer."""

_STATUS: Final = {
    "bad_request": 400,
    "bad_name": 400,
    "too_slow": 408,
    "too_many_texts": 409,
    "too_large": 413,
    "unsupported_type": 415,
    "unreadable": 422,
    "rate_limited": 429,
    "unavailable": 503,
}

_log: Final = structlog.get_logger("trioserver")


class Question(msgspec.Struct):
    """The payload of ``ask``."""

    text: Annotated[str, msgspec.Meta(min_length=1, max_length=2_000)]


@attrs.frozen
class Coach:
    """The services that handlers and HTTP endpoints need."""

    library: Library
    responder: Responder
    reader: Reader = attrs.field(factory=Reader)
    uploads: Uploads = attrs.field(factory=Uploads)


def make(
    database_url: str,
    *,
    auth: Authenticator,
    origins: Iterable[str] | None = None,
    responder: Responder | None = None,
) -> Application:
    """The application. ``database_url`` is SQLite's.

    ``origins``: the pages that may connect; None takes the environment's, else `ORIGINS`.
    ``responder``: what answers; None asks the environment's endpoint, else composes by itself.

    Raises `ValueError` for origins or an endpoint that will not do.
    """
    allowed = tuple(_origins_from_environment() if origins is None else origins)
    database = Database(database_url)
    coach = Coach(Library(database), responder or _responder_from_environment())

    @asynccontextmanager
    async def lifespan(application: Application) -> AsyncIterator[None]:
        async with database, coach.responder.running():
            await upgrade(database_url, "study_coach", STEPS)
            yield

    application = Application(auth=auth, lifespan=lifespan, http=_http(allowed))
    application.state["coach"] = coach
    application.add_health_check("study_texts", database.check_health)
    # Clients of this route may not see WebSocket's own pings.
    route = application.route(PATH, greeting=GREETING, origins=allowed, heartbeat="message")
    route.on("ask")(ask)
    return application


async def ask(connection: Connection, question: Question) -> AsyncIterator[dict[str, Any]]:
    """Stream an answer: first its passages, then the text."""
    coach = connection.application.state["coach"]
    assert isinstance(coach, Coach)
    try:
        passages = await coach.library.find(connection.user.id, question.text, PASSAGES)
    except DatabaseUnavailableError:
        raise Refusal("unavailable") from None
    for passage in passages:
        yield {"kind": "passage", **attrs.asdict(passage)}
    async with aclosing(coach.responder.answer(question.text, passages)) as pieces:
        async for piece in pieces:
            yield {"kind": "text", "text": piece}


# ---------------------------------------------------------------------------- texts, over HTTP


async def upload(request: HttpRequest) -> Response:
    """Receive a text, split it into passages and index it. After the response it is stored."""
    coach = _coach(request)
    user = await authenticate(request)
    with coach.uploads.turn(user.id):
        sent_as, data = await receive_file(request)
        name = plain_name(sent_as)
        text = await coach.reader.read(name, data)
        passages = await trio.to_thread.run_sync(cut, text)
        text_id = await coach.library.add(user.id, name, passages)
    _log.info("study_text_added", user=user.id, kind=kind_of(name), passages=len(passages))
    return _answer({"text_id": text_id, "name": name, "passages": len(passages)}, 201)


async def texts(request: HttpRequest) -> Response:
    """Return the user's own texts, newest first."""
    user = await authenticate(request)
    return _answer({"texts": await _coach(request).library.texts(user.id)})


async def delete(request: HttpRequest) -> Response:
    """Delete a text of the user. For a text of another user, the response is 404."""
    user = await authenticate(request)
    if not await _coach(request).library.delete(user.id, request.path_params["text_id"]):
        raise Refusal("not_found", "There is no such text.")
    return Response(status_code=204)


def _http(origins: tuple[str, ...]) -> Starlette:
    routes = [
        Route(TEXTS, upload, methods=["POST"]),
        Route(TEXTS, texts, methods=["GET"]),
        Route(TEXTS + "/{text_id}", delete, methods=["DELETE"]),
    ]
    cross_origin = Middleware(
        CORSMiddleware,
        allow_origins=[origin for origin in origins if "://" in origin and "*" not in origin],
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["Authorization", "Content-Type"],
    )
    handlers = {**EXCEPTION_HANDLERS, Refusal: _refused}
    return Starlette(routes=routes, middleware=[cross_origin], exception_handlers=handlers)


async def _refused(request: HttpRequest, error: Exception) -> Response:
    """Return the error, with a status of its own for each fault of a file."""
    assert isinstance(error, Refusal), "registered for this only"
    status = _STATUS.get(error.code)
    if status is None:
        return refuse(error)
    after = {} if error.retry_after is None else {"Retry-After": str(math.ceil(error.retry_after))}
    return ApiError(status, error.code, error.message, after).response


def _coach(request: HttpRequest) -> Coach:
    coach = request.scope["trioserver.application"].state["coach"]
    assert isinstance(coach, Coach)
    return coach


def _answer(content: Any, status: int = 200) -> Response:
    return JSONResponse(content, status, headers={"Cache-Control": "no-store"})


# ---------------------------------------------------------------------------- configuration


def _origins_from_environment() -> Iterable[str]:
    given = os.environ.get(ORIGINS_VARIABLE, "")
    return [origin.strip() for origin in given.split(",") if origin.strip()] or ORIGINS


def _responder_from_environment() -> Responder:
    endpoint = Endpoint.from_environment()
    return Composer() if endpoint is None else OpenAIResponder(endpoint)
