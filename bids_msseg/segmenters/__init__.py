"""Other segmenters than the cascade: what they are given, and what is asked of their result."""
