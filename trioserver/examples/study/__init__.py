"""The study coach: files become text, text becomes passages, passages become answers."""
