"""How a line of the log is written: its logger, its fields, how often, and what it never shows."""
