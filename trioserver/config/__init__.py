"""The options of a server: one frozen class per concern. Durations are in seconds.

The metadata of each field contains its help text, unit and bounds, which `trioserver config` prints
and docs/configuration.md is generated from. A wrong value raises `ValueError` with the option's
name, the value, and what is allowed.

The classes are imported on use, because `extras` and `private_files` are needed by commands that
need none of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from trioserver.config.config import Config
    from trioserver.config.connections import (
        AuthConfig,
        HandlerConfig,
        HeartbeatConfig,
        SendQueueConfig,
    )
    from trioserver.config.limits import LimitsConfig
    from trioserver.config.listeners import ListenConfig, TLSConfig
    from trioserver.config.operations import (
        LOG_FORMATS,
        LOG_LEVELS,
        AdminConfig,
        AuditConfig,
        HttpConfig,
        LogConfig,
        ShutdownConfig,
        TracingConfig,
    )
    from trioserver.config.peers import OriginConfig, ProxyConfig

__all__ = [
    "LOG_FORMATS",
    "LOG_LEVELS",
    "AdminConfig",
    "AuditConfig",
    "AuthConfig",
    "Config",
    "HandlerConfig",
    "HeartbeatConfig",
    "HttpConfig",
    "LimitsConfig",
    "ListenConfig",
    "LogConfig",
    "OriginConfig",
    "ProxyConfig",
    "SendQueueConfig",
    "ShutdownConfig",
    "TLSConfig",
    "TracingConfig",
]

_HOMES: Final = {
    "AdminConfig": "operations",
    "AuditConfig": "operations",
    "AuthConfig": "connections",
    "Config": "config",
    "HandlerConfig": "connections",
    "HeartbeatConfig": "connections",
    "HttpConfig": "operations",
    "LOG_FORMATS": "operations",
    "LOG_LEVELS": "operations",
    "LimitsConfig": "limits",
    "ListenConfig": "listeners",
    "LogConfig": "operations",
    "OriginConfig": "peers",
    "ProxyConfig": "peers",
    "SendQueueConfig": "connections",
    "ShutdownConfig": "operations",
    "TLSConfig": "listeners",
    "TracingConfig": "operations",
}
"""The module of each name."""

if not TYPE_CHECKING:  # otherwise mypy accepts every name

    def __getattr__(name: str) -> Any:
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{home}"), name)
        globals()[name] = value
        return value
