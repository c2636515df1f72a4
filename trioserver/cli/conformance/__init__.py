"""What `trioserver check` consists of: the scenarios that a server is tested with."""
