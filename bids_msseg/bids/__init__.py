"""BIDS input and output: the dataset index, file names and sidecars."""
