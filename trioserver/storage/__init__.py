"""Everything SQL: SQLite by default, PostgreSQL by URL, in worker threads.

Importing it needs no database library; making a `Database` does.
"""

from trioserver.storage.batch import Batcher, BatchFailed, BatchOverflow, BatchStatistics
from trioserver.storage.database import Database
from trioserver.storage.errors import DatabaseUnavailable

__all__ = [
    "BatchFailed",
    "BatchOverflow",
    "BatchStatistics",
    "Batcher",
    "Database",
    "DatabaseUnavailable",
]
