"""What `trioserver connect` consists of: input lines, messages, and how they are shown."""
