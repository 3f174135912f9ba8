"""Entry point of ``python -m bids_msseg``, which runs ``msseg``."""

from __future__ import annotations

import sys

from bids_msseg.cli.run import main

if __name__ == "__main__":
    sys.exit(main())
