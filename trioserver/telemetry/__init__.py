"""What a server reports: callbacks of observers, metrics, the audit, spans."""
