"""The parts of the study coach: files into text, text into passages, passages into answers."""
