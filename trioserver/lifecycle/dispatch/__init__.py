"""Handles the messages of a connection that is ready: loop, streams, topics, answers."""
