"""What one call of the BIDS App does: ``run(config)`` in, exit code out."""

from bids_msseg.app.levels import run as run
