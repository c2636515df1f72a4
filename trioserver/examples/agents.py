"""Agents behind one WebSocket, ``/ws``, and secure configuration: no start without a secret.

The token comes in the first message or, for clients that can do nothing else, as ``?token=``. An
expired one and an invalid one are different failures with different advice. Handlers reach the
agents through the application object; nothing depends on an HTTP request.

Run it: ``trioserver demo``, or for yourself::

    export TRIOSERVER_SECRET=$(trioserver secret)
    trioserver serve trioserver.examples.agents:make
    trioserver token make alice --audience agents  # in another terminal
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, Final, TypeAlias

import attrs
import msgspec
import trio

from trioserver import Application, Connection, JWTAuth, Refusal
from trioserver.auth import make_token
from trioserver.examples import audiences

SECRET_VARIABLE: Final = "TRIOSERVER_SECRET"  # noqa: S105 -- its name
LIFETIME_VARIABLE: Final = "TRIOSERVER_TOKEN_LIFETIME"

DEFAULT_LIFETIME: Final = 30 * 60.0  # seconds

STEP_PAUSE: Final = 0.02  # seconds; agents think

Agent: TypeAlias = Callable[[str], list[Any]]
"""Takes the input and returns the steps of its work; the last one is the result."""


class Task(msgspec.Struct):
    """The payload of ``run``."""

    agent: Annotated[str, msgspec.Meta(max_length=64)]
    input: Annotated[str, msgspec.Meta(max_length=10_000)] = ""


class Settings(msgspec.Struct, frozen=True):
    """The configuration. ``token_lifetime`` is in seconds."""

    secret: str
    token_lifetime: float = DEFAULT_LIFETIME

    def __repr__(self) -> str:
        return f"Settings(token_lifetime={self.token_lifetime})"  # never the secret

    @classmethod
    def from_environment(cls) -> Settings:
        """Raises `ValueError` with the variable's name and what is allowed.

        That there is a secret, and that it is a good one, is checked by `auth`.
        """
        lifetime = os.environ.get(LIFETIME_VARIABLE) or DEFAULT_LIFETIME
        try:
            seconds = float(lifetime)
        except ValueError:
            seconds = -1.0
        if not 1.0 <= seconds <= 30 * 86400.0:
            raise ValueError(
                f"{LIFETIME_VARIABLE} is {lifetime!r}; it must be from 1 to 2592000 seconds"
            )
        return cls(secret=os.environ.get(SECRET_VARIABLE, ""), token_lifetime=seconds)

    def auth(self, audience: str = audiences.AGENTS) -> JWTAuth:
        """Verifies the tokens for one of the systems.

        Raises `ValueError` with what to set and how to make it.
        """
        if not self.secret:
            raise ValueError(
                f"{SECRET_VARIABLE} is missing or empty: set it to 32 or more random bytes, "
                "made with `trioserver secret`."
            )
        try:
            return JWTAuth(secret=self.secret, audience=audience)
        except ValueError as error:
            raise ValueError(f"{SECRET_VARIABLE}: {error}") from None


@attrs.frozen
class Agents:
    """The services of the handlers: the agents, and the settings."""

    settings: Settings = attrs.field(repr=False)
    by_name: dict[str, Agent]

    def token_for(self, user: str) -> str:
        """Return an access token with the configured lifetime."""
        settings = self.settings
        return make_token(
            settings.secret,
            subject=user,
            lifetime=settings.token_lifetime,
            audience=audiences.AGENTS,
        )


def make(settings: Settings | None = None) -> Application:
    """The application; without settings, from the environment.

    Raises `ValueError` with one sentence that says what to set and how to make one, when the
    secret is missing, empty, short, or one that everybody knows.
    """
    settings = settings or Settings.from_environment()
    application = Application(auth=settings.auth())
    application.state["agents"] = Agents(
        settings, {"count_words": _count_words, "reverse": _reverse, "clock": _clock}
    )
    route = application.route("/ws", allow_query_token=True)
    route.on("list_agents")(list_agents)
    route.on("run")(run)
    return application


def list_agents(connection: Connection) -> dict[str, list[str]]:
    """Return the names of the agents."""
    return {"agents": sorted(_agents(connection).by_name)}


async def run(connection: Connection, task: Task) -> AsyncIterator[dict[str, Any]]:
    """Run an agent, and stream each of its steps."""
    agent = _agents(connection).by_name.get(task.agent)
    if agent is None:
        raise Refusal("not_found", "There is no such agent. `list_agents` returns their names.")
    *steps, result = agent(task.input)
    for step in steps:
        await trio.sleep(STEP_PAUSE)
        yield {"kind": "step", "text": step}
    yield {"kind": "result", "value": result}


def _agents(connection: Connection) -> Agents:
    agents = connection.application.state["agents"]
    assert isinstance(agents, Agents)
    return agents


def _count_words(text: str) -> list[Any]:
    counts = Counter(text.lower().split())
    return ["splitting the text", f"counting {len(counts)} different words", dict(counts)]


def _reverse(text: str) -> list[Any]:
    return ["turning it around", text[::-1]]


def _clock(text: str) -> list[Any]:
    return ["looking at the clock", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())]
