"""The commands of `trioserver`, one module each, imported on use. `command` is the entry point."""
