"""Rights that are withdrawn while a verification is on its way.

A verification asks first who it is, then whose the resource is, and each look-up may take seconds.
What is withdrawn meanwhile closes the connections of those who are known. Of those who are not
known yet it is remembered here, for as long as a verification lasts that began before, and looked
at once more when that ends. So no verification survives a withdrawal that came after its beginning,
and none asks the database a second time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final, TypeAlias

import attrs

from protocol import Disconnect, Refusal
from trioserver.auth import User

MAX_REMEMBERED: Final = 10_000
"""Withdrawals during one verification. Beyond it, the verifications that began before those that
had to be forgotten end with ``unavailable``: try again."""

_Key: TypeAlias = tuple[str, str]


@attrs.frozen
class _Withdrawal:
    number: int
    key: _Key
    user: str | None
    token_id: str | None
    resource: Mapping[str, str] | None
    refusal: Disconnect

    def fits(self, user: User, resource: Mapping[str, str]) -> bool:
        return (
            (self.user is None or self.user == user.id)
            and (self.token_id is None or self.token_id == user.token_id)
            and (self.resource is None or self.resource.items() <= resource.items())
        )


@attrs.frozen(eq=False)
class Verification:
    """One that is on its way; ``since``: so many withdrawals had been made before it began."""

    since: int


class Withdrawals:
    """What has been withdrawn since the oldest verification on its way began."""

    def __init__(self) -> None:
        self._count = 0
        self._forgotten = 0  # the number of the last one that had to be forgotten
        self._running: dict[Verification, None] = {}  # the oldest first
        self._recent: deque[_Withdrawal] = deque()
        self._by_key: dict[_Key, deque[_Withdrawal]] = {}

    def __len__(self) -> int:
        """How many are remembered."""
        return len(self._recent)

    @contextmanager
    def verification(self) -> Iterator[Verification]:
        """A verification lasts as long as this is open."""
        verification = Verification(self._count)
        self._running[verification] = None
        try:
            yield verification
        finally:
            del self._running[verification]
            if not self._running:
                self._recent.clear()
                self._by_key.clear()

    def add(
        self,
        *,
        user: str | None,
        token_id: str | None,
        resource: Mapping[str, str] | None,
        refusal: Disconnect,
    ) -> None:
        """Whoever fits everything given is not to be let in by a verification that has begun.

        One of ``user`` and ``token_id`` is given: all else is known of a connection from its start.
        """
        self._count += 1
        if not self._running:
            return
        key = _user_key(user) if user is not None else _token_key(token_id or "")
        withdrawal = _Withdrawal(self._count, key, user, token_id, resource, refusal)
        self._recent.append(withdrawal)
        self._by_key.setdefault(key, deque()).append(withdrawal)
        oldest = next(iter(self._running))
        while self._recent[0].number <= oldest.since:
            self._forget_first()
        if len(self._recent) > MAX_REMEMBERED:
            self._forgotten = self._recent[0].number
            self._forget_first()

    def check(self, verification: Verification, user: User, resource: Mapping[str, str]) -> None:
        """Raises `Disconnect` for a user from whom anything has been withdrawn since it began."""
        if verification.since == self._count:
            return
        if verification.since < self._forgotten:
            raise Refusal("unavailable")
        keys = [_user_key(user.id)]
        if user.token_id is not None:
            keys.append(_token_key(user.token_id))
        for key in keys:
            for withdrawal in self._by_key.get(key, ()):
                if withdrawal.number > verification.since and withdrawal.fits(user, resource):
                    told = withdrawal.refusal
                    raise Disconnect(told.code, told.message)  # one of its own for each

    def _forget_first(self) -> None:
        first = self._recent.popleft()
        same = self._by_key[first.key]
        same.popleft()
        if not same:
            del self._by_key[first.key]


def _user_key(user: str) -> _Key:
    return ("user", user)


def _token_key(token_id: str) -> _Key:
    return ("token", token_id)
