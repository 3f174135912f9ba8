"""Access to files on disk."""
