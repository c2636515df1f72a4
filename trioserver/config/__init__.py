"""What an operator can set: one frozen class for each concern. Durations are in seconds.

Each option says what it is for in its metadata, which `trioserver config` prints and
docs/configuration.md is made from. A wrong value raises `ValueError` with the option's name, the
value, and what is allowed.
"""

from trioserver.config.admission import LimitsConfig, OriginConfig, ProxyConfig
from trioserver.config.config import Config
from trioserver.config.connections import (
    AuthConfig,
    HandlerConfig,
    HeartbeatConfig,
    SendQueueConfig,
)
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
