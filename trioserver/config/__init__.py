"""The options of a server: one frozen class per concern. Durations are in seconds.

The metadata of each field contains its help text, unit and bounds, which `trioserver config` prints
and docs/configuration.md is generated from. A wrong value raises `ValueError` with the option's
name, the value, and what is allowed.
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
