"""What `trioserver demo` consists of: the example systems with data, and the text it prints."""
