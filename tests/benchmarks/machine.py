"""The machine: which core is whose, and what to say of it in general words."""

from __future__ import annotations

import os
import platform
import resource
import ssl
from pathlib import Path
from typing import Final

SERVER_CORE: Final = 0
GENERATOR_CORE: Final = 1


def prepare_process(core: int) -> None:
    """Pin this process to a core, and let it have as many sockets as it may."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[core % len(cores)]})
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def most_connections() -> int:
    """How many sockets a process may have, less some for what else it opens."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(0, hard - 200) if hard != resource.RLIM_INFINITY else 1_000_000


def core_count() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))


def describe() -> dict[str, str]:
    """No names of hosts or paths."""
    load, _, _ = os.getloadavg()
    return {
        "cores": str(core_count()),
        "CPU": _cpu_model(),
        "memory": f"{_memory_gib():.0f} GiB",
        "kernel": f"{platform.system()} {platform.release().split('-')[0]}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "TLS": ssl.OPENSSL_VERSION,
        "load at the start": f"{load:.1f}",
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
