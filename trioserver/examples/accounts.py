"""Login with a name and a password: ``POST /api/v1/login``, for the pages of all systems.

Passwords are stored as scrypt makes them (RFC 7914), which costs whoever has stolen them 16 MiB and
a fraction of a second for each guess. It runs in worker threads, a few at a time. A user who is not
there and a wrong password are the same to whoever asks, in the answer and in the time it takes.
Attempts are limited for each address and for each name, and apart from these for each device on
which the user has logged in before (see `attempts`); those that were right do not count.

Run it: ``trioserver demo``.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any, Final, TypeVar

import attrs
import msgspec
import sqlalchemy as sa
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from trioserver import Application, Database, DatabaseUnavailableError, address_key
from trioserver.auth import make_token
from trioserver.examples import audiences
from trioserver.examples.attempts import Attempts, Devices, Tries, Try
from trioserver.http.api import EXCEPTION_HANDLERS, ApiError, read_json, record_attempt

T = TypeVar("T")

PATH: Final = "/api/v1/login"

COST: Final = {"n": 2**14, "r": 8, "p": 5}
"""Parameters of scrypt that OWASP recommends for 16 MiB of memory. One hash takes about 200 ms."""

AT_ONCE: Final = 2
"""Passwords that are verified concurrently."""

WAITING: Final = 20
"""Logins that may wait for that. At 100 ms each, the last one waits two seconds."""

ATTEMPTS: Final = 10
"""Wrong passwords for one name from one address, from one address, and from one known device."""

REFILL: Final = 6.0
"""Seconds until one more attempt is allowed."""

NAME_ATTEMPTS: Final = 20
"""Wrong passwords for one name from all unknown devices; one more each `REFILL` seconds."""

BOTH_REFILL: Final = 18.0
"""As `REFILL`, for one name from one address. It is longer, so that a guesser at one address leaves
most attempts for a name to other addresses."""

MAX_BODY: Final = 4096
"""Bytes."""

metadata: Final = sa.MetaData()

accounts: Final = sa.Table(
    "accounts",
    metadata,
    sa.Column("user_id", sa.String(64), primary_key=True),
    sa.Column("password", sa.String(200), nullable=False),
    sa.Column("claims", sa.JSON, nullable=False),
)


@attrs.frozen
class Account:
    """A user to create. ``claims`` go into the user's tokens, such as ``{"role": "admin"}``."""

    password: str = attrs.field(repr=False)
    claims: Mapping[str, Any] = attrs.field(factory=dict)


class Login(msgspec.Struct):
    """The body of a login."""

    username: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    password: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]

    def __repr__(self) -> str:
        return f"Login({self.username!r})"  # never the password


# ---------------------------------------------------------------------------- for all systems


class Busy(Exception):
    """Too many passwords wait to be verified."""


class Passwords:
    """Hashes and verifies passwords and MPINs in worker threads, a few at a time."""

    def __init__(self, *, at_once: int = AT_ONCE, waiting: int = WAITING) -> None:
        self._threads = trio.CapacityLimiter(at_once)
        self._waiting = waiting
        self._nobody = _join(os.urandom(16), os.urandom(32))

    async def hash(self, password: str) -> str:
        """Return what to store, including the parameters of the hash. Raises `Busy`."""
        return await self._in_thread(partial(hash_password, password))

    async def verify(self, password: str, stored: str | None, *, known: bool = False) -> bool:
        """Whether it is the one that was stored. None, for nobody, takes as long. `Busy`.

        ``known``: from a known device. Some places to wait are kept for those.
        """
        secret = self._nobody if stored is None else stored
        waiting = 2 * self._waiting if known else self._waiting
        same = await self._in_thread(partial(_is_password, password, secret), waiting)
        return same and stored is not None

    async def _in_thread(self, work: Callable[[], T], waiting: int | None = None) -> T:
        if self._threads.statistics().tasks_waiting >= (waiting or self._waiting):
            raise Busy
        return await trio.to_thread.run_sync(work, limiter=self._threads, abandon_on_cancel=True)


def hash_password(password: str) -> str:
    """Return ``scrypt$n$r$p$salt$hash``. It is slow: call it in a worker thread."""
    salt = os.urandom(16)
    return _join(salt, _scrypt(password, salt, **COST))


def _join(salt: bytes, made: bytes) -> str:
    parts = ("scrypt", *COST.values(), *(base64.b64encode(raw).decode() for raw in (salt, made)))
    return "$".join(map(str, parts))


def _is_password(password: str, stored: str) -> bool:
    _, n, r, p, salt, expected = stored.split("$")
    made = _scrypt(password, base64.b64decode(salt), n=int(n), r=int(r), p=int(p))
    return hmac.compare_digest(made, base64.b64decode(expected))


def _scrypt(password: str, salt: bytes, *, n: int, r: int, p: int) -> bytes:
    memory = 128 * r * (n + p + 2)
    return hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=2 * memory, dklen=32)


# ---------------------------------------------------------------------------- this application


def _tries() -> Tries:
    return Tries(
        by_name=Attempts(at_once=NAME_ATTEMPTS, refill=REFILL),
        by_address=Attempts(at_once=ATTEMPTS, refill=REFILL),
        by_both=Attempts(at_once=ATTEMPTS, refill=BOTH_REFILL),
        by_device=Attempts(at_once=ATTEMPTS, refill=REFILL),
    )


@attrs.frozen
class Accounts:
    """What a login needs. ``users`` are stored before the first of them is looked for: hashing is
    not for the start of a server, which may never see a login.
    """

    database: Database
    secret: str = attrs.field(repr=False)
    token_lifetime: float
    users: dict[str, Account]
    devices: Devices
    passwords: Passwords = attrs.field(factory=Passwords)
    tries: Tries = attrs.field(factory=_tries)
    _storing: trio.Lock = attrs.field(factory=trio.Lock)

    async def store_users(self) -> None:
        """Store all users at the first login, whose duration then does not depend on the user."""
        async with self._storing:
            for user, account in self.users.items():
                await self.add(user, account)
            self.users.clear()

    async def find(self, user: str) -> tuple[str, dict[str, Any]] | None:
        """Return the stored password and the claims; None if there is no such user."""
        if self.users:
            await self.store_users()
        query = sa.select(accounts.c.password, accounts.c.claims).where(accounts.c.user_id == user)
        row = await self.database.read(lambda connection: connection.execute(query).first())
        return None if row is None else (row.password, row.claims)

    def token(self, user: str, claims: Mapping[str, Any]) -> str:
        """Return the token for a successful login."""
        return make_token(
            self.secret,
            subject=user,
            lifetime=self.token_lifetime,
            claims=claims,
            audience=audiences.PAGES,
        )

    async def add(self, user: str, account: Account) -> None:
        """Create a user, or replace the password and claims."""
        stored = await self.passwords.hash(account.password)
        row = {"user_id": user, "password": stored, "claims": dict(account.claims)}

        def replace(connection: sa.Connection) -> None:
            connection.execute(accounts.delete().where(accounts.c.user_id == user))
            connection.execute(accounts.insert().values(row))

        await self.database.run(replace)


def make(
    database_url: str, *, secret: str, token_lifetime: float, users: Mapping[str, Account]
) -> Application:
    """The application. ``users`` are there from the start, with these passwords.

    ``secret`` signs the tokens, which live for ``token_lifetime`` seconds and are for all systems
    that have pages. It signs the cookies of known devices too.
    """
    database = Database(database_url)

    @asynccontextmanager
    async def lifespan(application: Application) -> AsyncIterator[None]:
        async with database:
            await database.run(metadata.create_all)
            application.state["accounts"] = Accounts(
                database, secret, token_lifetime, dict(users), Devices(secret, path=PATH)
            )
            yield

    web = Starlette(
        routes=[Route(PATH, login, methods=["POST"])],
        exception_handlers=EXCEPTION_HANDLERS,
    )
    application = Application(lifespan=lifespan, http=web)
    application.add_health_check("accounts", database.check_health)
    return application


async def login(request: Request) -> JSONResponse:
    """Return a token for a name and a password."""
    wanted = await read_json(request, Login, max_bytes=MAX_BODY)
    services: Accounts = request.scope["trioserver.application"].state["accounts"]
    remote = request.client.host if request.client is not None else ""
    device = services.devices.shown(wanted.username, request)
    this = Try(wanted.username, address_key(remote), device)
    wait = services.tries.begin(this)
    if wait > 0:
        raise _too_many(request, wait)
    try:
        stored, claims = await services.find(wanted.username) or (None, {})
        known = device is not None
        good = await services.passwords.verify(wanted.password, stored, known=known)
    except (Busy, DatabaseUnavailableError) as error:
        services.tries.give_back(this)  # nothing was found out
        raise _too_many(request, 1.0) if isinstance(error, Busy) else error from None
    if not good:
        user = wanted.username if stored is not None else None
        record_attempt(request, "password", code="login_failed", user=user)
        challenge = {"WWW-Authenticate": 'Bearer realm="trioserver"'}
        raise ApiError(401, "login_failed", "The name or the password is wrong.", challenge)
    services.tries.give_back(this)
    record_attempt(request, "password", user=wanted.username)
    token = services.token(wanted.username, claims)
    body = {"token": token, "expires_in": int(services.token_lifetime)}
    answer = JSONResponse(body, headers={"Cache-Control": "no-store"})
    shown = services.devices.token(wanted.username, device)
    services.devices.remember(wanted.username, shown, request, answer)
    return answer


def _too_many(request: Request, wait: float) -> ApiError:
    record_attempt(request, "password", code="rate_limited")
    seconds = math.ceil(wait)
    message = f"Too many attempts. Try again in {seconds} s."
    return ApiError(429, "rate_limited", message, {"Retry-After": str(seconds)})
