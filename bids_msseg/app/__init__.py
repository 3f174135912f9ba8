"""One call of the BIDS App: ``run(config)`` returns the exit code."""

from bids_msseg.app.levels import run as run
