"""The example systems as one application, with users, conversations and tokens."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs

from trioserver import Application, Server
from trioserver.auth import Authenticator, TrustedUserId, make_token
from trioserver.examples import (
    accounts,
    admin_dashboard,
    agents,
    audiences,
    behavior_log,
    conversations,
    study_coach,
    website,
)

SEED: Final = {"alice": ["alice-1", "alice-2"], "bob": ["bob-1"]}
"""The conversations of each user."""

CLAIMS: Final[dict[str, dict[str, str]]] = {"admin": {"role": "admin"}}
"""Additional claims in the tokens of a user."""

USERS: Final = (*SEED, *CLAIMS)

MPIN: Final = {"phone": "9876543210", "mpin": "123456", "device_id": "device001"}
"""The credentials that the phone of `PHONE_USER` logs in with."""

PHONE_USER: Final = "user001"

_EXPIRED_FOR: Final = -3600.0  # seconds; well past any leeway


@attrs.frozen
class Demo:
    """The configuration of the demo."""

    settings: agents.Settings = attrs.field(repr=False)
    directory: Path
    trust_user_id: bool
    passwords: dict[str, str] = attrs.field(repr=False)

    @property
    def database_url(self) -> str:
        """The SQLite file of all examples and of the audit."""
        return f"sqlite:///{self.directory / 'demo.db'}"

    def application(self) -> Application:
        """All examples as one application. Raises `ValueError` if the configuration is wrong."""
        administrators = self.settings.auth(audiences.ADMIN_DASHBOARD)
        talkers: Authenticator = self.settings.auth(audiences.CONVERSATIONS)
        if self.trust_user_id:
            talkers = TrustedUserId(dangerously_trust_every_client=True)
        url, secret = self.database_url, self.settings.secret
        lifetime = self.settings.token_lifetime
        users = {
            user: accounts.Account(self.passwords[user], CLAIMS.get(user, {})) for user in USERS
        }
        phones = {MPIN["phone"]: (PHONE_USER, MPIN["mpin"])}
        application = Application(auth=administrators)
        for part in (
            accounts.make(url, secret=secret, token_lifetime=lifetime, users=users),
            admin_dashboard.make(url, auth=administrators),
            agents.make(self.settings),
            behavior_log.make(url, secret=secret, token_lifetime=lifetime, users=phones),
            conversations.make(url, auth=talkers, seed=SEED, is_user=_is_user),
            study_coach.make(url, auth=self.settings.auth(audiences.STUDY_COACH)),
            website.make(),
        ):
            application.include(part)
        return application

    def facts(self, server: Server) -> dict[str, Any]:
        """What a client needs to connect, as data for JSON."""
        url = server.addresses[0].url
        token = partial(make_token, self.settings.secret, audience=audiences.PAGES)
        lifetime = self.settings.token_lifetime
        http = "http" + url.removeprefix("ws")
        return {
            "http": http,
            "ws": url,
            "tokens": {
                **{
                    user: token(subject=user, lifetime=lifetime, claims=CLAIMS.get(user, {}))
                    for user in USERS
                },
                "alice_expired": token(subject="alice", lifetime=_EXPIRED_FOR),
            },
            "conversations": SEED,
            "passwords": self.passwords,
            "pages": {"index": f"{http}/", **{name: f"{http}/{name}" for name in website.PAGES}},
            "mpin": MPIN,
        }


async def _is_user(user: str) -> bool:
    return user in USERS
