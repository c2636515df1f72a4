"""Notifications to systemd, and sockets passed by it: sd_notify(3), sd_listen_fds(3).

Without systemd, or another service manager with its protocol, nothing of this does anything.
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
    """A socket that systemd has opened; ``name`` is its FileDescriptorName=."""

    name: str
    socket: socket.socket


def collect_sockets(environment: MutableMapping[str, str] = os.environ) -> list[PassedSocket]:
    """Return the sockets that this process was started with. A second call returns none.

    The environment variables are removed, so that no child process uses the sockets.
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
    """Notifies the service manager, if there is one. It never blocks, and never fails."""

    def __init__(self, address: str = "", watchdog_interval: float | None = None) -> None:
        self.watchdog_interval = watchdog_interval
        """Seconds between two watchdog messages: half of what the manager waits."""
        self._address = "\0" + address[1:] if address.startswith("@") else address

    @classmethod
    def of(cls, environment: MutableMapping[str, str] = os.environ) -> SystemdNotifier:
        """Return the notifier of the manager that started this process; removes its variables."""
        address = environment.pop("NOTIFY_SOCKET", "")
        pid = environment.pop("WATCHDOG_PID", "")
        microseconds = environment.pop("WATCHDOG_USEC", "")
        interval = None
        if microseconds.isdecimal() and int(microseconds) and pid in ("", str(os.getpid())):
            interval = int(microseconds) / 2e6
        return cls(address, interval)

    def ready(self, status: str) -> None:
        """Notify that the service is ready, or that a reload has ended."""
        self._notify("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Notify that a reload has begun; `ready` ends it."""
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._notify("RELOADING=1", f"MONOTONIC_USEC={microseconds}")

    def stopping(self, status: str, *, within: float) -> None:
        """Notify that the service is going to end ``within`` seconds."""
        self._notify("STOPPING=1", f"STATUS={status}", f"EXTEND_TIMEOUT_USEC={int(within * 1e6)}")

    async def run(self) -> None:
        """Send watchdog messages until cancelled. An event loop that hangs sends none."""
        if self.watchdog_interval is None:
            return
        while True:
            self._notify("WATCHDOG=1")
            await trio.sleep(self.watchdog_interval)

    def _notify(self, *lines: str) -> None:
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
