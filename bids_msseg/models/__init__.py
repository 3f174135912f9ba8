"""Networks, their weights files and inference, and measures from their output."""
