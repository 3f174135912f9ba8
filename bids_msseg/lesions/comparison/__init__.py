"""Agreement of masks and loads, and its statistics."""
