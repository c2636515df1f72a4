"""Logging: set-up, context fields, limits, tracebacks and masked paths."""
