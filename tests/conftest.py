"""Fixtures for all tests. Each lives with what it starts, in `tests.support`."""

from tests.support.databases import database_url as database_url
from tests.support.databases import postgresql_url as postgresql_url
from tests.support.databases import sqlite_url as sqlite_url
from tests.support.postgresql import postgresql as postgresql
