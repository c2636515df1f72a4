"""How long a test waits on a real clock."""

from typing import Final

PATIENCE: Final = 60.0
"""Seconds for what takes a fraction of one. A busy machine may be late; no test passes by waiting
for this long, and none says more than that something came at all."""
