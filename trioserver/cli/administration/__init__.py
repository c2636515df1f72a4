"""What `trioserver admin` consists of: the HTTP client and the subcommands."""
