"""What commands print: tables, JSON, error messages, and exit codes."""
