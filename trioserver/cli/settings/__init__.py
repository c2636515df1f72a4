"""The server's options: loaded from the file, the environment and the command line."""
