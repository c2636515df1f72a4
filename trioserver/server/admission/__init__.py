"""Who is let in: places and who gives way, how addresses behave, and the gate that asks them."""
