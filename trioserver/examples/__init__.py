"""Whole applications, on the public API only."""
