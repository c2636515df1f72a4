"""The parts of an application that take part in the life of its server."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import structlog

from trioserver.app.application import Application
from trioserver.auth import Component
from trioserver.auth.component import overrides

log: Final = structlog.get_logger("trioserver")


class Components:
    """Finds them anew at each call, because a lifespan may add routes."""

    def __init__(self, application: Application) -> None:
        self._application = application

    def __iter__(self) -> Iterator[Any]:
        """Yield authenticators, authorizers, mailboxes and presences, each once."""
        yield from {id(part): part for _, part in self._application.components()}.values()

    def services(self) -> list[Callable[..., Any]]:
        """Return the background work: each ``run`` that a component has of its own.

        Logs a warning for an object that has such a method and is not a `Component`.
        """
        for part in self:
            _warn_if_look_alike(part)
        return [part.run for part in self if overrides(part, "run")]

    def lifespans(self, server: object) -> Iterator[AbstractAsyncContextManager[None]]:
        """Yield the lifespans of the application and of those that it includes, not entered yet.

        A lifespan with two parameters is given ``server`` too.
        """
        for part in self._application.parts:
            if part.lifespan is not None:
                parameters = inspect.signature(part.lifespan).parameters.values()
                required = [each for each in parameters if each.default is each.empty]
                arguments = (part,) if len(required) == 1 else (part, server)
                yield part.lifespan(*arguments)

    def check_addresses(self, addresses: Sequence[str]) -> None:
        """Let each component look at the addresses. Raises `ValueError` if one refuses them."""
        for part in self:
            if isinstance(part, Component):
                part.check_addresses(addresses)


def _warn_if_look_alike(part: object) -> None:
    run = None if isinstance(part, Component) else getattr(type(part), "run", None)
    if inspect.iscoroutinefunction(run) and "task_status" in inspect.signature(run).parameters:
        log.warning(
            "not_a_component",
            part=type(part).__qualname__,
            hint="its run(*, task_status) is not called: derive the class from "
            "trioserver.Component",
        )
