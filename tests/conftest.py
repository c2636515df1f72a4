"""Fixtures for all tests. Each lives with what it starts, in `tests.support`."""

from hypothesis import HealthCheck, settings

from tests.support.databases import database_url as database_url
from tests.support.databases import postgresql_url as postgresql_url
from tests.support.databases import sqlite_url as sqlite_url
from tests.support.pgbouncer import pgbouncer as pgbouncer
from tests.support.postgresql import postgresql as postgresql
from tests.support.wire_messages import wire_messages as wire_messages

# Hypothesis measures itself by a real clock, which a busy machine makes too slow for both.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Long texts are no names for tests; some are keys, which are new in each process."""
    return argname if isinstance(val, str | bytes) and len(val) > 30 else None
