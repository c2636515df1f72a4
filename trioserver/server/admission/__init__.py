"""Admission: a slot for each connection, rate limits for each address, checks of each request."""
