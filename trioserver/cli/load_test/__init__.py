"""What `trioserver load` consists of: its options, the plan made of them, and the display."""
