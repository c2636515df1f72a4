"""Rights that are withdrawn while a verification is running.

A verification authenticates the user and then authorizes access to the resource, and each look-up
may take seconds. A withdrawal closes the connections of users that are known. A verification whose
user is not known yet cannot be closed; so withdrawals are kept here while a verification runs that
began before, and are checked when it ends. No verification survives a withdrawal that came after
its beginning, and none needs a second look-up in the database.
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
"""Withdrawals that are kept. Beyond it the oldest are forgotten, and verifications that began
before those end with ``unavailable``, so that the client tries again.
"""

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
    """A running verification. ``since``: the number of withdrawals before it began."""

    since: int


class Withdrawals:
    """Withdrawals since the beginning of the oldest running verification."""

    def __init__(self) -> None:
        self._count = 0
        self._forgotten = 0  # the number of the last one that had to be forgotten
        self._running: dict[Verification, None] = {}  # the oldest first
        self._recent: deque[_Withdrawal] = deque()
        self._by_key: dict[_Key, deque[_Withdrawal]] = {}

    def __len__(self) -> int:
        """The number of withdrawals that are kept."""
        return len(self._recent)

    @contextmanager
    def verification(self) -> Iterator[Verification]:
        """Register a verification that runs as long as this is open."""
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
        """Refuse running verifications of whatever matches everything that is given.

        ``user`` or ``token_id`` must be given: all else is known of a connection from its start.
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
        """Raise `Disconnect` if a withdrawal since the verification began matches the user."""
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
                    raise Disconnect(told.code, told.message)  # each one gets a new exception

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
