"""Validity of finished visits: same images, options and model, and no missing files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from bids_msseg.bids.derivatives import NO_EXTRAS, Extras, figure_labels, visit_files
from bids_msseg.bids.paths import figure_path
from bids_msseg.bids.record import VisitRecord, read_record
from bids_msseg.bids.visit import Visit

CUT_OPTIONS: Final = ("threshold", "min_lesion_volume", "exclude_masks", "mask_values")
"""Options that only affect the delineation of lesions, not networks or registrations."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """SHA-256 digests, in hexadecimal, of what the results of a visit depend on."""

    results: str
    maps: str  # only of the steps before lesions are delineated


def fingerprint(
    visit: Visit,
    options: Mapping[str, Any],
    model_sha256: str,
    version: str,
    extras: Extras = NO_EXTRAS,
) -> Fingerprint:
    """Compute the digests of all files and options (JSON values) that affect the results."""
    files = dict(visit.contrasts)
    if visit.brain_mask is not None:
        files["brain_mask"] = visit.brain_mask
    cut = _delineation_files(visit, extras)
    content: dict[str, Any] = {
        "files": {name: _digest(path) for name, path in files.items()},
        "prefix": visit.prefix,
        "skull_stripped": visit.skull_stripped("FLAIR"),
        "options": options,
        "model": model_sha256,
        "version": version,
    }
    fixed = {name: value for name, value in options.items() if name not in CUT_OPTIONS}
    # earlier steps do not read these files, but which of them there are decides what is fitted
    maps = _digest_json({**content, "options": fixed, "cut": sorted(cut)})
    content["cut"] = {name: _digest(path) for name, path in cut.items()}
    content["exclude_masks"] = [_digest(path) for path in visit.exclude_masks]
    return Fingerprint(_digest_json(content), maps)


def _delineation_files(visit: Visit, extras: Extras) -> dict[str, Path]:
    """Return the files that only the delineation of lesions and later steps read."""
    mask_file = {} if visit.lesion_mask is None else {"lesion_mask": visit.lesion_mask}
    atlases = [atlas for atlas in extras.atlases if atlas.kind == "file"]
    return {
        **mask_file,
        **{f"atlas {atlas.name}": Path(atlas.source) for atlas in atlases},
        **{f"grid {grid.name}": Path(grid.file) for grid in extras.grids},
    }


def _digest_json(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    if path.exists() and not path.is_file():
        # reading from a pipe could block forever
        return "no regular file"
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        # the first node reports what is wrong with the file
        return f"unreadable: {error.errno}"


def is_finished(
    out_dir: Path,
    visit: Visit,
    expected: str,
    *,
    spaces: Sequence[tuple[str, int | None]] = (),
    extras: Extras = NO_EXTRAS,
) -> bool:
    """Return whether OUT holds the results of a run with the fingerprint ``expected``."""
    record = read_record(out_dir, visit.participant, visit.session)
    if record is None or record.status != "ok" or record.fingerprint != expected:
        return False
    files = visit_files(out_dir, as_used(visit, record), spaces, extras)
    # failed alignments have figures, too
    labels = {*figure_labels(visit, extras), *record.figures}
    figures = (figure_path(out_dir, visit, label, extension=".png") for label in labels)
    return all(path.is_file() for path in (*files, *figures))


def as_used(visit: Visit, record: VisitRecord) -> Visit:
    """Remove contrasts that the recorded run did not use, which have no outputs."""
    unused = [name for name, use in record.contrasts.items() if not use.used]
    return replace(
        visit,
        t1w=None if "T1w" in unused else visit.t1w,
        t2w=None if "T2w" in unused else visit.t2w,
    )
