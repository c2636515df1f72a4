"""Topics: who hears what."""
