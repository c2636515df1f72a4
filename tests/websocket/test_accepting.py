"""A listener that waits where the machine runs out of something."""

from __future__ import annotations

import errno
from typing import Any

import pytest
import structlog
import trio
import trio.testing

from trioserver.websocket.accepting import Listener


class Scripted:
    """A socket of a machine that runs short when told to: such errors cannot be had at will."""

    def __init__(self, *script: int | None) -> None:
        self.script = list(script)

    async def accept(self) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        number = self.script.pop(0)
        if number is not None:
            raise OSError(number, "short of something")
        return trio.testing.memory_stream_pair()[0]


def listener_of(*script: int | None) -> Listener:
    transport: Any = Scripted(*script)
    return Listener(transport)


async def test_each_episode_is_said_once_however_long_it_is(autojump_clock: object) -> None:
    short = (errno.EMFILE,) * 20
    listener = listener_of(*short, None, *short, None, None, errno.ENOMEM, None)
    with structlog.testing.capture_logs() as logs:
        await listener.accept()
        assert trio.current_time() == pytest.approx(2.0)
        await listener.accept()
        await trio.sleep(1.0)
        await listener.accept()
        assert [each["event"] for each in logs] == ["accepting_paused", "accepting_resumed"]
        assert logs[0]["reason"] == "Too many open files"
        assert logs[1]["seconds"] == pytest.approx(3.9)
        await listener.accept()
        assert logs[2]["reason"] == "Cannot allocate memory"


async def test_another_error_is_an_error(autojump_clock: object) -> None:
    with pytest.raises(OSError, match="short of something"):
        await listener_of(errno.EBADF).accept()
