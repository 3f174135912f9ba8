"""Training of any network: loop, checkpoints, progress, and distribution over processes."""
