"""Everything SQL: SQLite by default, PostgreSQL by URL, in worker threads."""
