"""Limits on guessing a password or an MPIN that do not lock out the owner of the account.

Tries are counted for the name, for the address, and for both together, each in a bucket that
refills with time. A device from which the user has logged in before shows so, by a token that it
was given then (OWASP, "device cookies"). It has a bucket of its own, and none of the others counts
for it: whatever strangers try, and whoever else is behind its address, its user gets in.

From a device that is not known, a guesser at one address leaves room for the owner at another: the
bucket for both together refills more slowly than that of the name. Guessers at many addresses keep
unknown devices out for as long as they go on; otherwise they could guess on.
"""

from __future__ import annotations

import hmac
import secrets
import time
from base64 import urlsafe_b64encode
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import attrs
import trio
from starlette.requests import Request
from starlette.responses import Response

from trioserver import TokenBucket

REMEMBERED: Final = 10_000
"""Buckets of a kind; the one that was used longest ago is forgotten first. Making so many costs a
guesser more tries than the bucket that is forgotten was worth."""

DEVICE_LIFETIME: Final = 180 * 86400.0
"""Seconds for which a device stays known after its last login."""

COOKIE: Final = "trioserver-device-"
"""Prefix of the cookies' names. A browser has one cookie for each of its users."""


class Attempts:
    """Counts attempts by key. ``clock`` returns seconds from any start."""

    def __init__(
        self, *, at_once: int, refill: float, clock: Callable[[], float] = trio.current_time
    ) -> None:
        self._at_once = at_once
        self._rate = 1.0 / refill
        self._clock = clock
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def begin(self, who: str) -> float:
        """Count an attempt and return 0; or return the seconds to wait, and count nothing."""
        now = self._clock()
        bucket = self._bucket(who, now)
        return 0.0 if bucket.take(now) else bucket.seconds_until()

    def give_back(self, who: str) -> None:
        """Undo `begin`: the attempt does not count."""
        now = self._clock()
        self._bucket(who, now).take(now, -1.0)

    def _bucket(self, who: str, now: float) -> TokenBucket:
        bucket = self._buckets.setdefault(who, TokenBucket(self._rate, self._at_once, now))
        self._buckets.move_to_end(who)
        if len(self._buckets) > REMEMBERED:
            self._buckets.popitem(last=False)
        return bucket


@attrs.frozen
class Try:
    """An attempt to log in: for a ``name``, from an ``address``, from a known ``device``."""

    name: str
    address: str
    device: str | None = attrs.field(default=None, repr=False)


@attrs.frozen(kw_only=True)
class Tries:
    """All limits of one login. An attempt counts in all buckets that apply to it, or in none."""

    by_name: Attempts
    by_address: Attempts
    by_both: Attempts
    by_device: Attempts

    def begin(self, one: Try) -> float:
        """Count an attempt and return 0; or return the seconds to wait, and count nothing."""
        buckets = self._buckets(one)
        for number, (attempts, who) in enumerate(buckets):
            wait = attempts.begin(who)
            if wait > 0:
                for earlier, whose in buckets[:number]:
                    earlier.give_back(whose)
                return wait
        return 0.0

    def give_back(self, one: Try) -> None:
        """Undo `begin`: the attempt was successful, or its result is unknown."""
        for attempts, who in self._buckets(one):
            attempts.give_back(who)

    def _buckets(self, one: Try) -> list[tuple[Attempts, str]]:
        if one.device is not None:
            return [(self.by_device, one.device)]
        return [
            (self.by_both, f"{one.address} {one.name}"),
            (self.by_address, one.address),
            (self.by_name, one.name),
        ]


class Devices:
    """Makes the tokens by which devices are known, and verifies them.

    A token is good for one name, and for the login below ``path``. It proves nothing but that
    somebody who knew the password has logged in on the device. ``clock`` gives seconds since
    the Unix epoch.
    """

    def __init__(self, secret: str, *, path: str, clock: Callable[[], float] = time.time) -> None:
        # A key of its own: whatever else the secret signs is no token of a device.
        self._key = hmac.digest(secret.encode(), f"trioserver device of {path}".encode(), "sha256")
        self._path = path
        self._wall_clock = clock

    def known(self, name: str, token: str | None) -> str | None:
        """Return the id of the device with this token; None if the device is not known."""
        device, _, rest = (token or "").partition(".")
        until, _, signature = rest.partition(".")
        if not (until.isascii() and until.isdigit() and len(until) < 16):
            return None
        good = self._sign(name, device, until)
        if not hmac.compare_digest(good.encode(), signature.encode("utf-8", "surrogatepass")):
            return None
        return device if self._wall_clock() < int(until) else None

    def token(self, name: str, device: str | None) -> str:
        """Return a token for a device on which the user has logged in, known before or not."""
        device = device or secrets.token_hex(16)
        until = str(int(self._wall_clock() + DEVICE_LIFETIME))
        return f"{device}.{until}.{self._sign(name, device, until)}"

    def shown(self, name: str, request: Request) -> str | None:
        """Return the device of the request's cookie; None if the device is not known."""
        return self.known(name, request.cookies.get(self._cookie(name)))

    def remember(self, name: str, token: str, request: Request, answer: Response) -> None:
        """Set the token as a cookie for this login only, which scripts cannot read."""
        answer.set_cookie(
            self._cookie(name),
            token,
            max_age=int(DEVICE_LIFETIME),
            path=self._path,
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )

    def _cookie(self, name: str) -> str:
        """Return the cookie's name, which does not reveal the user."""
        return COOKIE + self._mac("cookie", name)[:16].replace("_", "-")

    def _sign(self, name: str, device: str, until: str) -> str:
        return self._mac("token", name, device, until)

    def _mac(self, *parts: str) -> str:
        encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
        message = b"".join(len(part).to_bytes(4, "big") + part for part in encoded)
        return urlsafe_b64encode(hmac.digest(self._key, message, "sha256")).decode().rstrip("=")
