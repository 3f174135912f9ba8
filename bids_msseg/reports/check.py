"""Results of ``msseg-check`` in OUT that pages and tables show, if there are any."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from bids_msseg.bids.files import read_json
from bids_msseg.bids.paths import check_path


@dataclass(frozen=True, slots=True)
class LoadLimits:
    """Limits of agreement (mL) of the loads of scan and pseudo-rescan, with their settings."""

    lower_ml: float
    upper_ml: float
    model_sha256: str
    threshold: float
    min_lesion_volume: float


def check_page(out_dir: Path) -> str:
    """Return the file name of the check's page for a link; empty if there is none."""
    path = check_path(out_dir, ".html")
    return path.name if path.is_file() else ""


def read_limits(out_dir: Path) -> LoadLimits | None:
    """Read the limits of agreement of the lesion load; None if they were not measured."""
    content = read_json(check_path(out_dir, ".json"))
    try:
        settings, load = content["Settings"], content["Load"]
        limits = LoadLimits(
            float(load["lower_limit_ml"]["value"]),
            float(load["upper_limit_ml"]["value"]),
            str(settings["model_sha256"]),
            float(settings["threshold"]),
            float(settings["min_lesion_volume"]),
        )
    except (ValueError, LookupError, TypeError):
        return None
    return limits if math.isfinite(limits.lower_ml) and math.isfinite(limits.upper_ml) else None
