"""QC decisions of readers: JSON files saved by participant pages, read by the group level.

A file belongs to one mask by its digest, so that decisions are never applied to lesions that the
reader has not seen. ``bids_msseg/data/qc.schema.json`` describes the format.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bids_msseg.bids.derivatives import OUTPUTS
from bids_msseg.bids.files import read_small
from bids_msseg.bids.visit import Visit, visit_key
from bids_msseg.errors import DataError, NoInputError
from bids_msseg.reports.tables import read_tsv

FORMAT = "bids_msseg-qc-1"
RATINGS = ("accept", "unsure", "reject")
LARGEST_MM3 = 1e9
"""Largest volume of a lesion that is accepted in a file."""
DECISIONS = {"kept": "reject", "rejected": "keep"}
"""Decision of a reader against the app, by the status that the app assigned."""


@dataclass(frozen=True, slots=True)
class Review:
    """A reader's decisions on one visit; volumes in mm³."""

    file: str
    rater: str
    comment: str
    rating: str | None  # one of RATINGS
    rejected_mm3: tuple[float, ...]  # of lesions that are not lesions
    restored_mm3: tuple[float, ...]  # of rejected candidates that are lesions

    def load_ml(self, raw: float | None) -> float | None:
        """Correct a lesion load (mL); None if it is unknown or the visit rejected."""
        if raw is None or self.rating == "reject":
            return None
        change = math.fsum(self.restored_mm3) - math.fsum(self.rejected_mm3)
        return max(0.0, raw + change / 1000)

    def count(self, raw: int | None) -> int | None:
        """Correct a lesion count; None as in :meth:`load_ml`."""
        if raw is None or self.rating == "reject":
            return None
        return raw + len(self.restored_mm3) - len(self.rejected_mm3)


def mask_digest(out_dir: Path, visit: Visit) -> str:
    """Return the SHA-256 of the lesion mask file on the FLAIR grid; empty without one."""
    name = OUTPUTS["mask"].path(out_dir, visit, ".nii.gz")
    return hashlib.sha256(name.read_bytes()).hexdigest() if name.is_file() else ""


def read_reviews(folder: Path, out_dir: Path, visits: Mapping[str, Visit]) -> dict[str, Review]:
    """Read all QC files below a folder, by visit key, and check them against OUT.

    Raises NoInputError without a QC file, DataError, which lists all faults, for unusable files.
    """
    files = sorted(folder.rglob("*_desc-qc_*.json")) if folder.is_dir() else []
    if not files:
        raise NoInputError(
            f"no QC file found in {folder}",
            hint="pass the folder with the *_desc-qc_*.json files saved by the pages to --qc",
        )
    reviews: dict[str, Review] = {}
    faults: list[str] = []
    for file in files:
        try:
            key, review = _read(file, out_dir, visits)
        except ValueError as error:
            faults.append(f"{file.name}: {error}")
            continue
        if key in reviews:
            faults.append(f"{file.name}: {reviews[key].file} is also for {key}; keep one of them")
        reviews[key] = review
    if faults:
        raise DataError(
            "invalid QC files: " + "; ".join(faults),
            hint="remove these files, or rate the visits again on their current pages and save "
            "new files",
        )
    return reviews


def _read(file: Path, out_dir: Path, visits: Mapping[str, Visit]) -> tuple[str, Review]:
    try:
        content = parse(read_small(file))
    except OSError as error:
        raise ValueError(f"it cannot be read: {error.strerror or error}") from error
    session = content["session_id"]
    participant = content["participant_id"].removeprefix("sub-")
    key = visit_key(participant, session and session.removeprefix("ses-"))
    if key not in visits:
        raise ValueError(f"{key} is not among the recorded visits")
    visit = visits[key]
    digest = mask_digest(out_dir, visit)
    if content["mask_sha256"] != digest:
        current = f"{digest[:12]}…" if digest else "no mask"
        raise ValueError(
            f"it was saved for another mask of {key} ({content['mask_sha256'][:12]}…, "
            f"now {current}): the visit has been processed again since"
        )
    table = OUTPUTS["lesion_stats"].path(out_dir, visit, ".tsv")
    volumes = _volumes(content["lesions"], read_tsv(table))
    return key, Review(
        file.name,
        content["rater"],
        content["comment"],
        content["rating"],
        volumes["kept"],
        volumes["rejected"],
    )


def _volumes(
    decisions: Sequence[Mapping[str, Any]], rows: Iterable[Mapping[str, str]]
) -> dict[str, tuple[float, ...]]:
    """Return volumes (mm³) of lesions with a decision, by status; ValueError if not in table."""
    table = {(row.get("status", "kept"), row.get("index", "")): row for row in rows}
    volumes: dict[str, list[float]] = {"kept": [], "rejected": []}
    for decision in decisions:
        row = table.pop((decision["status"], str(decision["index"])), None)
        if row is None or not math.isclose(
            float(row.get("volume_mm3", "nan")), decision["volume_mm3"], rel_tol=1e-6, abs_tol=1e-4
        ):
            raise ValueError(
                f"{decision['status']} lesion {decision['index']} of "
                f"{decision['volume_mm3']:g} mm³ is not in the lesion table or "
                "occurs twice in the file"
            )
        volumes[decision["status"]].append(float(row["volume_mm3"]))
    return {status: tuple(values) for status, values in volumes.items()}


def parse(raw: bytes) -> dict[str, Any]:
    """Parse a QC file and fill in absent optional keys; a ValueError names the fault."""
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ValueError("it is not JSON") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"its format is not {FORMAT}")
    with_defaults = {"session_id": None, "rater": "", "comment": "", "rating": None, **content}
    for name in ("participant_id", "mask_sha256", "rater", "comment"):
        if not isinstance(with_defaults.get(name), str):
            raise ValueError(f"{name} is not text")
    if not (with_defaults["session_id"] is None or isinstance(with_defaults["session_id"], str)):
        raise ValueError("session_id is neither text nor null")
    if with_defaults["rating"] not in (None, *RATINGS):
        raise ValueError(f"rating is not one of {', '.join(RATINGS)} or null")
    if not isinstance(with_defaults.get("lesions"), list) or not all(
        map(_is_decision, with_defaults["lesions"])
    ):
        raise ValueError("lesions is not a list of decisions")
    return with_defaults


def _is_decision(entry: object) -> bool:
    return (
        isinstance(entry, dict)
        and type(entry.get("index")) is int
        and type(entry.get("volume_mm3")) in (int, float)
        and abs(entry["volume_mm3"]) <= LARGEST_MM3
        and isinstance(entry.get("status"), str)
        and entry["status"] in DECISIONS
        and entry.get("decision") == DECISIONS[entry["status"]]
    )
