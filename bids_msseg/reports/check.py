"""What pages and tables of OUT say of a check by ``msseg-check``, where there was one."""

from __future__ import annotations

import json
from pathlib import Path

from bids_msseg.bids.files import format_cell, read_small
from bids_msseg.bids.paths import check_path

LIMITS = ("lower_limit_ml", "upper_limit_ml")


def check_page(out_dir: Path) -> str:
    """Name the page of the check, to link to it; empty where there is none."""
    path = check_path(out_dir, ".html")
    return path.name if path.is_file() else ""


def read_limits(out_dir: Path) -> str:
    """Read the limits of agreement of a load, as the group table has them.

    Parameters
    ----------
    out_dir : Path

    Returns
    -------
    str
        Lower and upper limit in mL, separated by a comma; empty where they were not measured.
    """
    try:
        load = json.loads(read_small(check_path(out_dir, ".json")).decode("utf-8"))["Load"]
        return ",".join(format_cell(float(load[name]["value"])) for name in LIMITS)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return ""
