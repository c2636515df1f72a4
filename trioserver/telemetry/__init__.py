"""What is measured as it happens, as cheaply as it can be: counters, log context, spans."""
