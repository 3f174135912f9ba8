"""Prepared visits on disk, and detection of changes in their input files.

A file with the recorded size and time is unchanged; otherwise its SHA-256 is compared.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bids_msseg.bids.files import is_newer, write_atomic, write_json
from bids_msseg.errors import UsageError

if TYPE_CHECKING:
    from bids_msseg.evaluation.labels import LabelledFiles
    from bids_msseg.training.data.visits import LabelledVisit

LOGGER = logging.getLogger("bids_msseg")
TRAINING_RESULTS = ("checkpoints/*.pt", "unseen/*.npz", "valverde/**/*.pt")
"""Files below the output folder that were computed from prepared visits."""


def has_begun(out: Path) -> bool:
    """Return whether training on the prepared visits of an output folder has begun."""
    return any(True for pattern in TRAINING_RESULTS for _ in out.glob(pattern))


def prepare_cohort(out: Path, files: Sequence[LabelledFiles], threads: int) -> dict[str, float]:
    """Prepare new and changed visits in ``<out>/cohort``; return the lesion load of each in mL.

    Raises UsageError if files changed after training began, DataError for unusable images.
    """
    from bids_msseg.training.data.visits import load_visit

    folder = out / "cohort"
    folder.mkdir(parents=True, exist_ok=True)
    changed = {item.visit.key: _find_change(folder, item) for item in files}
    reasons = [f"{visit}: {change}" for visit, change in changed.items() if change]
    if reasons and has_begun(out):
        raise UsageError(
            f"input files changed after the training in {out} had started ({reasons[0]})",
            hint="use another output_dir, or restore the original input files",
        )
    loads = {}
    for item in files:
        visit = item.visit.key
        target = folder / f"{visit}.npz"
        if changed[visit]:
            LOGGER.info("preparing %s again: %s", visit, changed[visit])
        if changed[visit] or not target.is_file() or not item.brain.is_file():
            _prepare(item, target, threads)
        loads[visit] = float(load_visit(target).truth.astype(float).sum()) / 1000
    return loads


def read_images(folder: Path, visits: Iterable[str]) -> dict[str, str]:
    """Read the SHA-256 of each visit's FLAIR file; skip visits without a record."""
    records = {visit: _read_record(folder / f"{visit}.json") for visit in visits}
    return {
        visit: str(record["files"]["FLAIR"]["sha256"])
        for visit, record in records.items()
        if record
    }


def _prepare(item: LabelledFiles, target: Path, threads: int) -> None:
    from bids_msseg.training.data.visits import save_visit

    record = _make_record(item)
    visit = _prepare_images(item, threads)
    # without its record a prepared visit counts as one of an earlier version, not as a wrong one
    target.with_suffix(".json").unlink(missing_ok=True)
    save_visit(visit, target)
    write_json(target.with_suffix(".json"), record)
    LOGGER.info("prepared %s", item.visit.key)


def _prepare_images(item: LabelledFiles, threads: int) -> LabelledVisit:
    """Prepare a visit as ``msseg`` does, unless it is aligned and has a brain mask."""
    from bids_msseg.imaging.volume import save_volume
    from bids_msseg.training.data.cohort import prepare_raw_visit, prepare_visit, share_a_grid

    name, images = item.visit.key, item.visit.contrasts
    if item.brain_given and share_a_grid(images):
        return prepare_visit(name, item.site, images, item.brain, item.learnt, threads=threads)
    given_brain = item.brain if item.brain_given else None
    visit, brain = prepare_raw_visit(
        name, item.site, images, given_brain, item.learnt, threads=threads
    )
    if not item.brain_given:
        mask = brain.with_data(brain.data > 0)
        write_atomic(item.brain, lambda path: save_volume(mask, path))
    return visit


def _input_files(item: LabelledFiles) -> dict[str, Path]:
    brain = {"brain": item.brain} if item.brain_given else {}
    return {**item.visit.contrasts, **brain, "truth": item.learnt}


def _make_record(item: LabelledFiles) -> dict[str, Any]:
    return {
        "site": item.site,
        "files": {
            kind: {**_file_stamp(path), "sha256": digest(path)}
            for kind, path in _input_files(item).items()
        },
    }


def _file_stamp(path: Path) -> dict[str, int]:
    state = path.stat()
    return {"size": state.st_size, "mtime_ns": state.st_mtime_ns}


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_record(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _find_change(folder: Path, item: LabelledFiles) -> str:
    """Describe how a visit differs from its prepared version; empty if it does not."""
    target = folder / f"{item.visit.key}.npz"
    if not target.is_file():
        return ""
    record = _read_record(target.with_suffix(".json"))
    inputs = _input_files(item)
    if not record:
        # prepared by a version that kept no record
        if not is_newer([target], inputs.values()):
            return "an input file is newer than the prepared data"
        write_json(target.with_suffix(".json"), _make_record(item))
        return ""
    if record["site"] != item.site:
        return f"its site is now {item.site}, not {record['site']}"
    if set(record["files"]) != set(inputs):
        return f"its inputs are now {', '.join(inputs)}, not {', '.join(record['files'])}"
    return _find_changed_content(target, record, inputs, item)


def _find_changed_content(
    target: Path, record: Mapping[str, Any], inputs: Mapping[str, Path], item: LabelledFiles
) -> str:
    recorded = record["files"]
    modified = [
        kind
        for kind, path in inputs.items()
        if _file_stamp(path) != {key: recorded[kind][key] for key in ("size", "mtime_ns")}
    ]
    for kind in modified:
        if digest(inputs[kind]) != recorded[kind]["sha256"]:
            return f"{inputs[kind].name} has changed"
    if modified:
        write_json(target.with_suffix(".json"), _make_record(item))
    return ""
