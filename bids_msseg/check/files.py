"""Stored results of a check, and its tables and summary."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np

from bids_msseg import __version__
from bids_msseg.bids.files import read_json, write_json, write_tsv
from bids_msseg.bids.paths import check_path, check_record_path
from bids_msseg.bids.visit import IDENTITY_COLUMNS, Visit, identity_cells
from bids_msseg.check.summary import VisitCheck, summarise
from bids_msseg.check.text import LESION_COLUMNS, VISIT_COLUMNS, notes
from bids_msseg.check.visit import Row
from bids_msseg.imaging.normalise import CONTRASTS

PROGRAM: Final = "msseg-check"
FORMAT: Final = "bids_msseg-check-1"
REFERENCE: Final = "check_reference.json"


@dataclass(frozen=True, slots=True)
class Stored:
    """Stored result of one visit; the summary only includes visits with the same settings."""

    visit: VisitCheck
    fingerprint: str
    settings: Mapping[str, Any]


def write_stored(out_dir: Path, stored: Stored) -> None:
    """Write the result of a visit atomically."""
    path = check_record_path(out_dir, stored.visit.participant, stored.visit.session)
    write_json(path, {"format": FORMAT, **asdict(stored)})


def read_stored(path: Path) -> Stored | None:
    """Read a file of :func:`write_stored`; return None if it is missing or unusable."""
    content = read_json(path)
    try:
        visit = _visit(content["visit"])
        stored = Stored(visit, str(content["fingerprint"]), dict(content["settings"]))
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    return stored if content.get("format") == FORMAT and visit.key == path.stem else None


def _visit(content: Mapping[str, Any]) -> VisitCheck:
    session = content["session"]
    measured = set(LESION_COLUMNS) - set(IDENTITY_COLUMNS)
    return VisitCheck(
        str(content["participant"]),
        None if session is None else str(session),
        _rows(content["lesions"], measured),
        _rows(content["draws"], {"draw", "painted_ml", "found_ml", "n_false", "false_ml"}),
        _rows(content["rescans"], {"rescan", "load_ml", "dice"}),
        float(content["load_ml"]),
        tuple(float(value) for value in content["contrast"]),
        tuple(float(value) for value in content["noise"]),
        tuple(str(flag) for flag in content["flags"]),
        float(content["seconds"]),
    )


def _rows(rows: Sequence[Mapping[str, Any]], names: set[str]) -> tuple[Row, ...]:
    if any(set(row) != names for row in rows):
        raise ValueError("a row has other columns")
    return tuple(dict(row) for row in rows)


def read_all(out_dir: Path) -> list[Stored]:
    """Read the stored results of all visits, in the order of file names."""
    folder = check_record_path(out_dir, "x", None).parent
    results = (read_stored(path) for path in sorted(folder.glob("sub-*.json")))
    return [stored for stored in results if stored is not None]


def read_reference() -> Mapping[str, Any] | None:
    """Read values of the labelled cohort from ``benchmarks/check_reference.py``, or None."""
    file = resources.files("bids_msseg") / "data" / REFERENCE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def write_results(
    out_dir: Path,
    visits: Sequence[VisitCheck],
    failures: Iterable[tuple[Visit, str]],  # visits that were not checked, and why
    settings: Mapping[str, Any],
    reference: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Write tables and ``check.json`` of at least one visit; return the content of the latter."""
    lesions = [{**_identity(visit), **row} for visit in visits for row in visit.lesions]
    write_tsv(check_path(out_dir, ".tsv"), tuple(LESION_COLUMNS), lesions)
    rows = [visit_row(visit) for visit in visits]
    rows += [{**_identity(visit), "status": "failed", "reason": why} for visit, why in failures]
    write_tsv(check_path(out_dir, ".tsv", "visits"), tuple(VISIT_COLUMNS), rows)
    content = {
        "Name": "Check of lesion segmentation on own scans",
        "GeneratedBy": [{"Name": "bids_msseg", "Version": __version__, "Program": PROGRAM}],
        "Notes": list(notes(reference)),
        "Settings": dict(settings),
        **summarise(visits),
        "Columns": {"check.tsv": LESION_COLUMNS, "check_visits.tsv": VISIT_COLUMNS},
    }
    write_json(check_path(out_dir, ".json"), content)
    return content


def _identity(visit: VisitCheck | Visit) -> Row:
    return dict(identity_cells(visit.participant, visit.session))


def visit_row(visit: VisitCheck) -> Row:
    """Return the row of a visit, in the columns of :data:`VISIT_COLUMNS`."""
    loads = visit.loads
    dice = [float(row["dice"]) for row in visit.rescans if row["dice"] is not None]
    sums = {
        name: sum(row[name] for row in visit.draws)
        for name in ("painted_ml", "found_ml", "n_false", "false_ml")
    }
    return {
        **_identity(visit),
        "status": "ok",
        "lesion_load_ml": visit.load_ml,
        "n_painted": len(visit.lesions),
        "n_found": sum(bool(row["found"]) for row in visit.lesions),
        **sums,
        "draws": len(visit.draws),
        "rescans": len(visit.rescans),
        "rescan_difference_ml": float(np.mean(loads[1:])) - loads[0] if loads[1:] else math.nan,
        "load_sd_ml": float(np.std(loads, ddof=1)) if loads[1:] else math.nan,
        "rescan_dice": float(np.mean(dice)) if dice else math.nan,
        **{
            f"{name.lower()}_lesion_contrast": value
            for name, value in zip(CONTRASTS, visit.contrast, strict=True)
        },
        "flair_noise": visit.noise[0],
        "flags": "; ".join(visit.flags),
        "seconds": visit.seconds,
    }
