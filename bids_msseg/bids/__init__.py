"""BIDS in and out: the dataset index, the names of files, their sidecars."""
