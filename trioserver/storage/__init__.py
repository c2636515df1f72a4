"""SQL: SQLite and PostgreSQL, in worker threads.

Importing this needs no database library; making a `Database` does.
"""

from trioserver.storage.batch import Batcher, BatchFailedError, BatchOverflowError, BatchStatistics
from trioserver.storage.database import Database
from trioserver.storage.errors import DatabaseUnavailableError

__all__ = [
    "BatchFailedError",
    "BatchOverflowError",
    "BatchStatistics",
    "Batcher",
    "Database",
    "DatabaseUnavailableError",
]
