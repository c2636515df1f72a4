"""Behavioural events of a phone app: ``/api/v1/ws/behavior/{session_id}``.

``POST /api/v1/mpin-login`` begins a session, ``POST /api/v1/verify-mpin`` comes back to one; both
give a session token. The WebSocket takes it in the first message or as ``?token=``, and verifies in
this order, each with a reason of its own: the token is a session token; the session exists; it is
of the token's user and phone; it is not blocked. The ``session_id`` inside the token is not
compared with the one in the URL: a token is good for all sessions of its user and phone.

An event is stored, then acknowledged: what has been acknowledged survives a kill -9. Events of many
phones are committed together. One that has an ``event_id`` in its content can be sent again, on
this connection or another: it is stored once, and acknowledged again. The request's ``id`` is not
such a key, because clients count it anew on each connection.

Run it: ``trioserver demo``.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final

import attrs
import msgspec
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from trioserver import (
    AdminAction,
    Application,
    Connection,
    Database,
    DatabaseUnavailableError,
    Id,
    JWTAuth,
    Refusal,
    User,
    address_key,
)
from trioserver.auth import make_token
from trioserver.examples import audiences
from trioserver.examples.accounts import Busy, Passwords
from trioserver.examples.attempts import Attempts, Devices, Tries, Try
from trioserver.examples.behavior_store import STEPS, Session, Store, Stored
from trioserver.examples.upgrade import upgrade
from trioserver.http.api import (
    EXCEPTION_HANDLERS,
    ApiError,
    authenticate,
    read_json,
    record_attempt,
)

PATH: Final = "/api/v1/ws/behavior/{session_id}"

MAX_EVENT: Final = 16 * 1024
"""Maximum bytes of an event's ``data``, as JSON."""

BOTH_ATTEMPTS: Final = 5
BOTH_REFILL: Final = 900.0
"""Wrong MPINs of one phone from one address, then one more every so many seconds."""

PHONE_ATTEMPTS: Final = 10
PHONE_REFILL: Final = 300.0
"""Wrong MPINs of one phone from all devices that are not known: a million take ten years. Whoever
guesses from one address has less than these, so that the owner can log in on a new device."""

ADDRESS_ATTEMPTS: Final = 20
ADDRESS_REFILL: Final = 15.0
"""Wrong MPINs from one address, for any phone; a whole office may share the address."""

DEVICE_ATTEMPTS: Final = 5
DEVICE_REFILL: Final = 300.0
"""Wrong MPINs from one device on which the user of the phone has logged in before."""

MPIN_PATH: Final = "/api/v1"

HEADERS: Final = {"Cache-Control": "no-store"}


class Login(msgspec.Struct):
    """The body of ``mpin-login``.

    ``device_token`` is that of the last answer, for an app that keeps no cookies. The ``device_id``
    is no proof that the device is known: it is no secret.
    """

    phone: Annotated[str, msgspec.Meta(pattern=r"^\+?[0-9]{6,15}$")]
    mpin: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{4,8}$")]
    device_id: Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern=r"^[!-~]+$")]
    device_token: Annotated[str, msgspec.Meta(max_length=256)] | None = None

    def __repr__(self) -> str:
        return "Login()"  # never the MPIN


class Return(Login, kw_only=True):
    """The body of ``verify-mpin``."""

    session_id: Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[!-~]+$")]


class Event(msgspec.Struct):
    """The payload of ``behavior``. ``at`` is the phone's time, in whatever form it has it.

    ``event_id`` is the key of the event in its session, a UUID for example. The phone makes it
    once, and sends it again with the same content. Without it, each message is a new event.
    """

    event_type: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")]
    at: float | Annotated[str, msgspec.Meta(max_length=64)] | None = None
    data: dict[str, Any] = msgspec.field(default_factory=dict)
    event_id: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")] | None = None


def _tries() -> Tries:
    return Tries(
        by_name=Attempts(at_once=PHONE_ATTEMPTS, refill=PHONE_REFILL),
        by_address=Attempts(at_once=ADDRESS_ATTEMPTS, refill=ADDRESS_REFILL),
        by_both=Attempts(at_once=BOTH_ATTEMPTS, refill=BOTH_REFILL),
        by_device=Attempts(at_once=DEVICE_ATTEMPTS, refill=DEVICE_REFILL),
    )


@attrs.frozen
class Services:
    """What the endpoints and the handler need."""

    store: Store
    secret: str = attrs.field(repr=False)
    token_lifetime: float
    devices: Devices
    mpins: Passwords = attrs.field(factory=Passwords)
    tries: Tries = attrs.field(factory=_tries)
    seeded: trio.Event = attrs.field(factory=trio.Event)

    async def seed(self, users: Mapping[str, tuple[str, str]]) -> None:
        """Store the phones. Logins wait for this; the start of the server does not."""
        for phone, (user_id, mpin) in users.items():
            if await self.store.credentials(phone) is None:
                await self.store.add_phone(phone, user_id, await self.mpins.hash(mpin))
        self.seeded.set()

    def session_token(self, session_id: str, session: Session) -> str:
        """``sid`` is where blocks look for a session."""
        claims = {"phone": session.phone, "session_id": session_id, "sid": session_id}
        return make_token(
            self.secret,
            subject=session.user_id,
            lifetime=self.token_lifetime,
            claims=claims,
            audience=audiences.BEHAVIOR_LOG,
        )


def make(
    database_url: str,
    *,
    secret: str,
    token_lifetime: float,
    users: Mapping[str, tuple[str, str]],
) -> Application:
    """The application. ``users``: the user's id and the MPIN of each phone to have.

    The database is SQLite. ``secret`` signs the tokens, which live for ``token_lifetime`` seconds
    and are for this system only; with a token for another nobody gets in. Sessions are blocked by
    administrators, whose tokens are for the dashboard.
    """
    store = Store(Database(database_url))
    services = Services(store, secret, token_lifetime, Devices(secret, path=MPIN_PATH))

    @asynccontextmanager
    async def lifespan(application: Application) -> AsyncIterator[None]:
        async with store.database, trio.open_nursery() as nursery:
            await upgrade(database_url, "behavior_log", STEPS)
            await nursery.start(store.run)
            nursery.start_soon(services.seed, users)
            application.state["services"] = services
            yield
            nursery.cancel_scope.cancel()

    async def is_theirs(user: User, resource: Mapping[str, str]) -> bool:
        """Return whether the session in the URL belongs to the user of the token."""
        session = await store.session(resource["session_id"])
        if session is None:
            raise Refusal("session_not_found", "There is no such session.")
        if (user.id, user.claims["phone"]) != (session.user_id, session.phone):
            raise Refusal("session_mismatch", "The session belongs to another user or phone.")
        if session.blocked:
            raise Refusal("session_blocked")
        return True

    own = ("exp", "sub", "jti", "sid", "session_id", "phone")
    web = Starlette(
        routes=[
            Route("/api/v1/mpin-login", mpin_login, methods=["POST"]),
            Route("/api/v1/verify-mpin", verify_mpin, methods=["POST"]),
            Route("/api/v1/sessions/{session_id}/block", block, methods=["POST"]),
            Route("/api/v1/sessions/{session_id}/unblock", unblock, methods=["POST"]),
        ],
        exception_handlers=EXCEPTION_HANDLERS,
    )
    administrators = JWTAuth(secret=secret, audience=audiences.ADMIN_DASHBOARD)
    application = Application(auth=administrators, lifespan=lifespan, http=web)
    application.add_health_check("behavior", store.database.check_health)
    route = application.route(
        PATH,
        auth=JWTAuth(secret=secret, audience=audiences.BEHAVIOR_LOG, required=own),
        authorize=is_theirs,
        session_parameter="session_id",
        allow_query_token=True,
    )
    route.on("behavior")(behavior)
    return application


# ---------------------------------------------------------------------------- over the WebSocket


async def behavior(connection: Connection, event: Event, id: Id | None) -> dict[str, str]:
    """Store an event, then acknowledge it."""
    if id is None:
        raise Refusal("invalid_payload", "An event needs an `id`, so that it can be acknowledged.")
    data = json.dumps(event.data)  # ASCII: whatever text a phone sends, a database takes it
    if len(data) > MAX_EVENT:
        raise Refusal("invalid_payload", f"The event's data is larger than {MAX_EVENT} bytes.")
    stored = Stored(
        connection.path_params["session_id"],
        event.event_id,
        event.event_type,
        json.dumps(event.at),
        data,
    )
    await _services(connection.application).store.record(stored)
    return {"event_type": event.event_type, "status": "processed"}


def _services(application: Application) -> Services:
    services = application.state["services"]
    assert isinstance(services, Services)
    return services


# ---------------------------------------------------------------------------- over HTTP


async def mpin_login(request: Request) -> JSONResponse:
    """Start a session."""
    wanted = await read_json(request, Login, max_bytes=4096)
    services = _services(request.scope["trioserver.application"])
    device = _known_device(services, request, wanted)
    async with _counted(request, services, wanted, device) as user_id:
        session = Session(user_id, wanted.phone, wanted.device_id, blocked=False)
        id = await services.store.begin(session)
    return _session_answer(request, services, id, session, device)


async def verify_mpin(request: Request) -> JSONResponse:
    """Come back to a session, from the phone and the device that it was begun with.

    The session's id is a secret that only a device has on which the user has logged in: who shows
    it comes from a known device.
    """
    wanted = await read_json(request, Return, max_bytes=4096)
    services = _services(request.scope["trioserver.application"])
    session = await services.store.session(wanted.session_id)
    device = shown = _known_device(services, request, wanted)
    if session is not None and session.is_from(wanted.phone, wanted.device_id):
        device = shown or f"session {wanted.session_id}"
    async with _counted(request, services, wanted, device) as user_id:
        known = Session(user_id, wanted.phone, wanted.device_id, blocked=False)
        if session is None or attrs.evolve(session, blocked=False) != known:
            raise _wrong()
        if session.blocked:
            raise Refusal("session_blocked")
    return _session_answer(request, services, wanted.session_id, session, shown)


def _known_device(services: Services, request: Request, login: Login) -> str | None:
    shown = services.devices.known(login.phone, login.device_token)
    return shown or services.devices.shown(login.phone, request)


@asynccontextmanager
async def _counted(
    request: Request, services: Services, login: Login, device: str | None
) -> AsyncIterator[str]:
    """The user, whose MPIN is right. What is wrong counts, also what is found to be so inside.

    Counted beforehand, so that many guesses at the same time are not more guesses. A phone that is
    not there costs the same, in attempts and in time. Raises `ApiError`.
    """
    remote = request.client.host if request.client is not None else ""
    this = Try(login.phone, address_key(remote), device)
    wait = services.tries.begin(this)
    if wait > 0:
        record_attempt(request, "mpin", code="rate_limited")
        raise _too_many(wait)
    await services.seeded.wait()
    user_id = ""
    try:
        found = await services.store.credentials(login.phone)
        user_id, stored = found or ("", None)
        if not await services.mpins.verify(login.mpin, stored, known=device is not None):
            raise _wrong()
        yield user_id
    except ApiError as error:
        record_attempt(request, "mpin", code=error.code, user=user_id or None)
        raise
    except (Busy, Refusal, DatabaseUnavailableError) as error:
        services.tries.give_back(this)  # no fault of who asks
        code = error.code if isinstance(error, Refusal) else "unavailable"
        record_attempt(request, "mpin", code=code, user=user_id or None)
        raise _too_many(1.0) if isinstance(error, Busy) else error from None
    services.tries.give_back(this)
    record_attempt(request, "mpin", user=user_id)


def _wrong() -> ApiError:
    challenge = {"WWW-Authenticate": 'Bearer realm="trioserver"'}
    return ApiError(401, "mpin_invalid", "The phone, the MPIN or the session is wrong.", challenge)


def _too_many(wait: float) -> ApiError:
    seconds = math.ceil(wait)
    words = f"Too many attempts. Try again in {seconds} s."
    return ApiError(429, "rate_limited", words, {"Retry-After": str(seconds)})


def _session_answer(
    request: Request, services: Services, id: str, session: Session, device: str | None
) -> JSONResponse:
    """Return the session, and the token that makes the device known from now on."""
    shown = services.devices.token(session.phone, device)
    body = {
        "session_id": id,
        "session_token": services.session_token(id, session),
        "expires_in": int(services.token_lifetime),
        "device_token": shown,
    }
    answer = JSONResponse(body, headers=HEADERS)
    services.devices.remember(session.phone, shown, request, answer)
    return answer


async def block(request: Request) -> JSONResponse:
    """Block a session in the store, and close its connections. For administrators."""
    return await _set_blocked(request, blocked=True)


async def unblock(request: Request) -> JSONResponse:
    """Unblock a session in the store. For administrators."""
    return await _set_blocked(request, blocked=False)


async def _set_blocked(request: Request, *, blocked: bool) -> JSONResponse:
    user = await authenticate(request, admin=True)
    id, server = request.path_params["session_id"], request.scope["trioserver"]
    services = _services(request.scope["trioserver.application"])
    if not await services.store.set_blocked(id, blocked):
        raise Refusal("not_found", "There is no such session.")
    number = 0
    if blocked:  # also who is being verified, and has been found not to be blocked
        number = server.disconnect(resource={"session_id": id}, code="session_blocked")
    name = "block_session" if blocked else "unblock_session"
    server.record_admin_action(
        AdminAction(actor=user.id, name=name, target={"sid": id}, affected=number)
    )
    return JSONResponse({"blocked": blocked, "disconnected": number}, headers=HEADERS)
