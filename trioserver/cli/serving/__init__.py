"""What `serve` and `demo` share: load an application, run a server, show its addresses."""
