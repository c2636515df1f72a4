"""What a service says to systemd, and the sockets it is given: sd_notify(3), sd_listen_fds(3).

Without systemd, or another manager that speaks like it, all of this does nothing.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Final

import attrs
import structlog
import trio

_FIRST_FD: Final = 3
"""SD_LISTEN_FDS_START."""

_log: Final = structlog.get_logger("trioserver")


@attrs.frozen
class PassedSocket:
    """A socket that was opened for us; ``name`` is its FileDescriptorName=."""

    name: str
    socket: socket.socket


def take_sockets(environment: MutableMapping[str, str] = os.environ) -> list[PassedSocket]:
    """The sockets that this process was started with; a second time there are none.

    The variables that tell of them are removed, so that no child takes them for its own.
    """
    values = [environment.pop(f"LISTEN_{name}", "") for name in ("PID", "FDS", "FDNAMES")]
    pid, number, names = values
    if pid != str(os.getpid()) or not number.isdecimal():
        return []
    named = names.split(":") if names else []
    sockets = []
    for index in range(int(number)):
        fd = _FIRST_FD + index
        os.set_inheritable(fd, False)
        name = named[index] if index < len(named) else "unknown"
        sockets.append(PassedSocket(name, socket.socket(fileno=fd)))
    return sockets


class SystemdNotifier:
    """The service manager, where there is one. Telling it never blocks, and never fails."""

    def __init__(self, address: str = "", watchdog_interval: float | None = None) -> None:
        self.watchdog_interval = watchdog_interval
        """Seconds from one sign of life to the next: half of what the manager waits."""
        self._address = "\0" + address[1:] if address.startswith("@") else address

    @classmethod
    def of(cls, environment: MutableMapping[str, str] = os.environ) -> SystemdNotifier:
        """The one that started this process. Its variables are removed: it is ours to talk to."""
        address = environment.pop("NOTIFY_SOCKET", "")
        pid = environment.pop("WATCHDOG_PID", "")
        microseconds = environment.pop("WATCHDOG_USEC", "")
        interval = None
        if microseconds.isdecimal() and int(microseconds) and pid in ("", str(os.getpid())):
            interval = int(microseconds) / 2e6
        return cls(address, interval)

    def ready(self, status: str) -> None:
        """The service serves; also at the end of a reload."""
        self._tell("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """A reload has begun; `ready` ends it."""
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._tell("RELOADING=1", f"MONOTONIC_USEC={microseconds}")

    def stopping(self, status: str, *, within: float) -> None:
        """The service is going to end, ``within`` so many seconds."""
        self._tell("STOPPING=1", f"STATUS={status}", f"EXTEND_TIMEOUT_USEC={int(within * 1e6)}")

    async def run(self) -> None:
        """Give signs of life until cancelled. An event loop that hangs gives none."""
        if self.watchdog_interval is None:
            return
        while True:
            self._tell("WATCHDOG=1")
            await trio.sleep(self.watchdog_interval)

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        text = "\n".join(line.replace("\n", " ") for line in lines)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
                notify.setblocking(False)
                notify.connect(self._address)
                notify.send(text.encode())
        except OSError as error:
            with suppress(Exception):
                _log.warning("systemd_notify_failed", error=os.strerror(error.errno or 0))
