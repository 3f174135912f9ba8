"""Tables, dictionaries and sidecars of what changed between two visits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from bids_msseg.bids.changes import PairResult, VisitPair
from bids_msseg.lesions.longitudinal.rows import ChangeRule, Code

LEVELS: Final[Mapping[str, str]] = {
    "new": "only at the later visit, and FLAIR shows that it is new",
    "enlarging": "at both visits, larger at the later visit by more than noise",
    "shrinking": "at both visits, smaller at the later visit by more than noise",
    "resolved": "only at the earlier visit, and FLAIR shows that it is no longer present",
    "unclear": "in one mask only, without proof of a change; see reason",
    "stable": "at both visits, without a change beyond noise",
}


def change_rows(pair: VisitPair, result: PairResult) -> list[dict[str, Any]]:
    """Return the table rows of a pair, with the keys of :func:`change_dictionary`."""
    return [
        {
            "session_before": f"ses-{pair.earlier.session}",
            "session_after": f"ses-{pair.later.session}",
            "index": row.index,
            "change": row.change,
            "reason": row.reason,
            "region": region,
            "lesions_before": _numbers(row.lesions_before),
            "lesions_after": _numbers(row.lesions_after),
            **{name: round(getattr(row, name), digits) for name, digits in _MEASURED.items()},
            **dict(zip(_CENTRE, (round(value, 2) for value in centre), strict=True)),
        }
        for row, centre, region in zip(result.rows, result.centres_mm, result.regions, strict=True)
    ]


def change_dictionary() -> dict[str, dict[str, Any]]:
    """Return descriptions, units and levels of the columns of the table of changes."""
    return {name: dict(entry) for name, entry in _COLUMNS.items()}


def code_table() -> list[dict[str, Any]]:
    """Return the table that names the values of the image of changes."""
    return [{"index": int(code), "name": code.label, "meaning": code.description} for code in Code]


def codes_sidecar(pair: VisitPair, rule: ChangeRule, sources: Sequence[str]) -> dict[str, Any]:
    """Return the sidecar of the image of changes."""
    flair = pair.later.contrasts.get("FLAIR")
    reference = {} if flair is None else {"SpatialReference": f"bids:raw:{flair.file}"}
    return {
        "Description": f"Change of lesions since session {pair.earlier.session}, per voxel",
        "Manual": False,
        "Sources": list(sources),
        **reference,
        "Rule": asdict(rule),
        "meaning": {"Description": "Meaning of the value"},
    }


def _numbers(labels: Sequence[int]) -> str:
    return " ".join(map(str, labels))


_CENTRE: Final = ("centroid_x", "centroid_y", "centroid_z")
_MEASURED: Final[Mapping[str, int]] = {
    "before_mm3": 2,
    "after_mm3": 2,
    "change_mm3": 2,
    "smallest_detectable_change_mm3": 2,
    "gained_mm3": 2,
    "lost_mm3": 2,
    "flair_change_sd": 2,
    "p_before": 4,
    "p_after": 4,
}
_COLUMNS: Final[Mapping[str, Mapping[str, Any]]] = {
    "session_before": {"Description": "Earlier visit"},
    "session_after": {"Description": "Later visit"},
    "index": {"Description": "Number of the row in its pair of visits"},
    "change": {"Description": "Change of the lesion between the visits", "Levels": dict(LEVELS)},
    "reason": {
        "Description": "Why the lesion is unclear, stable despite a change, or only partly changed"
    },
    "region": {"Description": "Main region of the largest lesion of the row"},
    "lesions_before": {
        "Description": "Numbers in the lesion table of the earlier visit, separated by spaces; "
        "lesions that merged or split share one row"
    },
    "lesions_after": {"Description": "Numbers in the lesion table of the later visit"},
    "before_mm3": {"Description": "Volume at the earlier visit", "Units": "mm^3"},
    "after_mm3": {"Description": "Volume at the later visit", "Units": "mm^3"},
    "change_mm3": {"Description": "after_mm3 minus before_mm3", "Units": "mm^3"},
    "smallest_detectable_change_mm3": {
        "Description": "Smallest change that differs from noise: for a lesion at both visits 1.96 "
        "standard deviations of the noise of its border times its surface, for other lesions the "
        "volume of a sphere of 3 mm in diameter",
        "Units": "mm^3",
    },
    "gained_mm3": {
        "Description": "Volume that became lesion, as far as FLAIR shows it, on a grid of 1 mm "
        "between the visits",
        "Units": "mm^3",
    },
    "lost_mm3": {
        "Description": "Volume that is no longer lesion, as far as FLAIR shows it, on that grid",
        "Units": "mm^3",
    },
    "flair_change_sd": {
        "Description": "Mean change of FLAIR minus that of the surrounding tissue, in standard "
        "deviations of the noise of FLAIR in normal tissue; inside a lesion of one visit, or "
        "inside the part of a lesion that only one visit has"
    },
    "p_before": {"Description": "Mean probability of lesion at this position, earlier visit"},
    "p_after": {"Description": "Mean probability of lesion at this position, later visit"},
    **{
        name: {
            "Description": f"{name[-1]} coordinate of the centre of mass in the RAS+ world of the "
            "later FLAIR",
            "Units": "mm",
        }
        for name in _CENTRE
    },
}
