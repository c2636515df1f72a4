"""Noticing whether a coroutine has to wait, so that those that do not cost next to nothing."""

from __future__ import annotations

import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

_T = TypeVar("_T")


@types.coroutine
def run_noticing(
    coroutine: Coroutine[Any, Any, _T], on_wait: Callable[[], None]
) -> Generator[Any, Any, _T]:
    """Await ``coroutine``; at the moment at which it has to wait, if ever, call ``on_wait`` first.

    A deadline, and whatever else is only of use while somebody waits, need not be set up before.
    """
    try:
        trap = coroutine.send(None)
    except StopIteration as finished:
        return finished.value  # type: ignore[no-any-return]
    on_wait()
    while True:
        try:
            try:
                value = yield trap
            except BaseException as error:
                trap = coroutine.throw(error)
            else:
                trap = coroutine.send(value)
        except StopIteration as finished:
            return finished.value  # type: ignore[no-any-return]
