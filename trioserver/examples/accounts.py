"""Logging in with a name and a password: ``POST /api/v1/login``, for the pages of all systems.

Passwords are stored as scrypt makes them (RFC 7914), which costs whoever has stolen them 16 MiB and
a fraction of a second for each guess. It runs in worker threads, a few at a time. A user who is not
there and a wrong password are the same to whoever asks, in the answer and in the time it takes.
Attempts are limited for each address and for each name; those that were right do not count.

Run it: ``trioserver demo``.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any, Final, TypeVar

import attrs
import msgspec
import sqlalchemy as sa
import structlog
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from protocol.bucket import TokenBucket
from trioserver import Application
from trioserver.auth import make_token
from trioserver.http.api import EXCEPTION_HANDLERS, ApiError, read_json, record_attempt
from trioserver.peers.addresses import key_of
from trioserver.storage import Database

T = TypeVar("T")

COST: Final = {"n": 2**14, "r": 8, "p": 5}
"""Of scrypt, as OWASP advises for 16 MiB of memory: some 200 ms."""

AT_ONCE: Final = 2
"""Passwords that are verified at the same time."""

WAITING: Final = 20
"""More than these may not wait for it: at 100 ms each, the last of them waits for two seconds."""

ATTEMPTS: Final = 10
"""For one address and for one name, at once; then one every `REFILL` seconds."""

REFILL: Final = 6.0

REMEMBERED: Final = 10_000
"""Addresses and names whose attempts are counted; who was seen longest ago is forgotten first."""

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

log: Final = structlog.get_logger("trioserver")


@attrs.frozen
class Account:
    """A user to have. ``claims`` are what the token says of the user: ``{"role": "admin"}``."""

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
    """Hashes secrets that people remember, and verifies them, a few at a time."""

    def __init__(self, *, at_once: int = AT_ONCE, waiting: int = WAITING) -> None:
        self._threads = trio.CapacityLimiter(at_once)
        self._waiting = waiting
        self._nobody = _join(os.urandom(16), os.urandom(32))

    async def hash(self, password: str) -> str:
        """What to store; the cost is in it. Raises `Busy`."""
        return await self._in_thread(partial(hash_password, password))

    async def verify(self, password: str, stored: str | None) -> bool:
        """Whether it is the one that was stored. None, for nobody, takes as long. `Busy`."""
        known = self._nobody if stored is None else stored
        same = await self._in_thread(partial(_is_password, password, known))
        return same and stored is not None

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self._threads.statistics().tasks_waiting >= self._waiting:
            raise Busy
        return await trio.to_thread.run_sync(work, limiter=self._threads, abandon_on_cancel=True)


def hash_password(password: str) -> str:
    """``scrypt$n$r$p$salt$hash``. It takes a while: call it in a worker thread."""
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


class Attempts:
    """How often who has tried. ``clock`` gives seconds, from any start."""

    def __init__(
        self,
        *,
        at_once: int = ATTEMPTS,
        refill: float = REFILL,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self._at_once = at_once
        self._rate = 1.0 / refill
        self._clock = clock
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def begin(self, *who: str) -> float:
        """Count an attempt for each of them. Seconds to wait, 0 where it may go on."""
        now = self._clock()
        for number, each in enumerate(who):
            bucket = self._bucket(each, now)
            if not bucket.take(now):
                self.succeeded(*who[:number])  # nobody else pays for what was not tried
                return bucket.wait()
        return 0.0

    def succeeded(self, *who: str) -> None:
        """The attempt was right, and does not count."""
        now = self._clock()
        for each in who:
            self._bucket(each, now).take(now, -1.0)

    def _bucket(self, who: str, now: float) -> TokenBucket:
        bucket = self._buckets.setdefault(who, TokenBucket(self._rate, self._at_once, now))
        self._buckets.move_to_end(who)
        if len(self._buckets) > REMEMBERED:
            self._buckets.popitem(last=False)
        return bucket


# ---------------------------------------------------------------------------- this application


@attrs.frozen
class Accounts:
    """What a login needs. ``users`` are stored before the first of them is looked for: hashing is
    not for the start of a server, which may never see a login.
    """

    database: Database
    secret: str = attrs.field(repr=False)
    token_lifetime: float
    users: dict[str, Account]
    passwords: Passwords = attrs.field(factory=Passwords)
    attempts: Attempts = attrs.field(factory=Attempts)
    _storing: trio.Lock = attrs.field(factory=trio.Lock)

    async def store_users(self) -> None:
        """All of them, whoever it is that logs in first: how long it takes shall tell nothing."""
        async with self._storing:
            for user, account in self.users.items():
                await self.add(user, account)
            self.users.clear()

    async def find(self, user: str) -> tuple[str, dict[str, Any]] | None:
        """The stored password and the claims."""
        if self.users:
            await self.store_users()
        query = sa.select(accounts.c.password, accounts.c.claims).where(accounts.c.user_id == user)
        row = await self.database.read(lambda connection: connection.execute(query).first())
        return None if row is None else (row.password, row.claims)

    async def add(self, user: str, account: Account) -> None:
        """Have this user, with this password from now on."""
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

    ``secret`` signs the tokens, which live for ``token_lifetime`` seconds.
    """
    database = Database(database_url)

    @asynccontextmanager
    async def lifespan(application: Application) -> AsyncIterator[None]:
        async with database:
            await database.run(metadata.create_all)
            application.state["accounts"] = Accounts(database, secret, token_lifetime, dict(users))
            yield

    web = Starlette(
        routes=[Route("/api/v1/login", login, methods=["POST"])],
        exception_handlers=EXCEPTION_HANDLERS,
    )
    application = Application(lifespan=lifespan, http=web)
    application.add_health_check("accounts", database.check_health)
    return application


async def login(request: Request) -> JSONResponse:
    """A token for a name and a password."""
    wanted = await read_json(request, Login, max_bytes=MAX_BODY)
    services: Accounts = request.scope["trioserver.application"].state["accounts"]
    remote = request.client.host if request.client is not None else ""
    who = (f"address {key_of(remote)}", f"user {wanted.username}")
    wait = services.attempts.begin(*who)
    if wait > 0:
        raise _too_many(request, wait)
    try:
        stored, claims = await services.find(wanted.username) or (None, {})
        good = await services.passwords.verify(wanted.password, stored)
    except Busy:
        raise _too_many(request, 1.0) from None
    if not good:
        known = wanted.username if stored is not None else None
        record_attempt(request, "password", code="login_failed", user=known)
        log.info("login_refused", remote=remote, reason="login_failed")
        challenge = {"WWW-Authenticate": 'Bearer realm="trioserver"'}
        raise ApiError(401, "login_failed", "The name or the password is wrong.", challenge)
    services.attempts.succeeded(*who)
    record_attempt(request, "password", user=wanted.username)
    lifetime = services.token_lifetime
    token = make_token(services.secret, subject=wanted.username, lifetime=lifetime, claims=claims)
    answer = {"token": token, "expires_in": int(lifetime)}
    return JSONResponse(answer, headers={"Cache-Control": "no-store"})


def _too_many(request: Request, wait: float) -> ApiError:
    record_attempt(request, "password", code="rate_limited")
    log.info("login_refused", reason="rate_limited")
    seconds = math.ceil(wait)
    message = f"Too many attempts. Try again in {seconds} s."
    return ApiError(429, "rate_limited", message, {"Retry-After": str(seconds)})
