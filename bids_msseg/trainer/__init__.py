"""Training of any network: the loop, its checkpoints, and the processes that share its work."""
