"""The engine of several processes: topics, presence and nodes in Valkey or Redis (6.2 or newer)."""
