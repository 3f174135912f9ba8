"""The demo dataset: synthetic heads with painted lesions and their true masks."""
