"""Files on disk, below everything else."""
