"""Compare changes between two visits as found by the app and as drawn by experts.

usage: python benchmarks/changes.py OUT RAW_HEADS [--work DIR]

``OUT`` is the output folder of ``msseg RAW_HEADS OUT participant``. It is only read: visits that
were not compared there, or were compared by another rule, are compared in ``--work`` (a temporary
folder by default).

The ``label-change`` masks mark every place that changed, regardless of the direction (brighter or
darker), also where no lesion mask has a border. A drawn place counts as found if it contains a
voxel of change (new, gained, lost, resolved), on the grid of the later FLAIR. ``by masks alone``
is the result of the plain difference of the two lesion masks, without further evidence. A row of
the app's table is false if no drawn place of either visit is within 2 mm of its changed voxels.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.bids.changes import VisitPair, pair_files, pairs_of
from bids_msseg.bids.paths import changes_path, output_path
from bids_msseg.bids.record import VisitRecord, read_records, recorded_visit
from bids_msseg.imaging.registration.itk import read_itk_affine
from bids_msseg.imaging.resample import mask_onto
from bids_msseg.imaging.volume import Volume, load_volume
from bids_msseg.lesions.instances import label_lesions
from bids_msseg.lesions.longitudinal.rows import Code
from bids_msseg.reports.tables import read_tsv
from bids_msseg.workflow.changes import compare_participants
from bids_msseg.workflow.execution import Execution

CHANGED = (Code.NEW, Code.GAINED, Code.LOST, Code.RESOLVED)
ROWS = ("new", "enlarging", "shrinking", "resolved")
BINS = ((3.0, 30.0), (30.0, 100.0), (100.0, np.inf))
NEAR_MM = 2.0
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class ComparedPair:
    """One pair of visits on the later FLAIR."""

    pair: VisitPair
    codes: Volume
    drawn: Mask
    either: Mask
    masks: tuple[Mask, Mask]
    rows: list[dict[str, str]]


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare changes with drawn ones.")
    parser.add_argument("out", type=Path)
    parser.add_argument("raw_heads", type=Path)
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    manual = options.raw_heads / "derivatives" / "manual"
    with _work_folder(options.work) as work:
        out = _compared_copy(options.out, work)
        pairs = [
            pair for records in _records_by_participant(out).values() for pair in pairs_of(records)
        ]
        compared = [
            compared_pair
            for pair in pairs
            if (compared_pair := _read(out, manual, pair)) is not None
        ]
    _print_detection(compared)
    _print_rows(compared)
    _print_volumes(compared)
    return 0


@contextmanager
def _work_folder(work: Path | None) -> Iterator[Path]:
    if work is not None:
        work.mkdir(parents=True, exist_ok=True)
        yield work
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)


def _records_by_participant(out: Path) -> dict[str, list[VisitRecord]]:
    records: dict[str, list[VisitRecord]] = {}
    for record in read_records(out):
        records.setdefault(record.participant, []).append(record)
    return records


def _compared_copy(out: Path, work: Path) -> Path:
    """Copy OUT to the work folder, compare visits there if needed, and return the copy."""
    copy = work / "out"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(out, copy, ignore=shutil.ignore_patterns(".work", "*.html"))
    people = list(_records_by_participant(copy))
    for outcome in compare_participants(people, Execution(work / "nipype", copy)):
        if outcome.failure:
            print(f"sub-{outcome.participant} failed: {outcome.failure.message}")
    return copy


def _read(out: Path, manual: Path, pair: VisitPair) -> ComparedPair | None:
    earlier, later = pair.earlier, pair.later
    if later.changes.get("failed"):
        print(f"{later.key} is left out: {later.changes['failed']}")
        return None
    drawn = [_drawn(manual, record) for record in (earlier, later)]
    if drawn[0] is None or drawn[1] is None:
        return None
    files = pair_files(out, earlier.session or "", later)
    codes = load_volume(files.codes, np.uint8)
    move = read_itk_affine(files.transform)

    def carried(volume: Volume) -> Mask:
        mask = volume.with_data(volume.data > 0)
        return mask_onto(mask, codes.shape, codes.affine, transform=move)

    table = read_tsv(changes_path(out, later.participant, ".tsv"))
    rows = [row for row in table if row["session_after"] == f"ses-{later.session}"]
    masks = [load_volume(_mask(out, record)) for record in (earlier, later)]
    drawn_later = drawn[1].data > 0
    lesion_masks = (carried(masks[0]), masks[1].data > 0)
    return ComparedPair(
        pair, codes, drawn_later, drawn_later | carried(drawn[0]), lesion_masks, rows
    )


def _drawn(manual: Path, record: VisitRecord) -> Volume | None:
    name = f"{record.key}_space-FLAIR_label-change_mask.nii.gz"
    folder = manual / f"sub-{record.participant}" / f"ses-{record.session}" / "anat"
    return load_volume(folder / name) if (folder / name).is_file() else None


def _mask(out: Path, record: VisitRecord) -> Path:
    visit = recorded_visit(record)
    return output_path(out, visit, space="FLAIR", label="L", suffix="mask", extension=".nii.gz")


def _print_detection(compared: Sequence[ComparedPair]) -> None:
    """Print how many drawn places were found, by size, also by the masks alone."""
    sizes = " | ".join(f"{low:.0f} to {high:g} mm³" for low, high in BINS).replace(
        " to inf", " and more"
    )
    print("drawn places found / drawn (in brackets: by masks alone)\n")
    print(f"| participant | {sizes} | share of the drawn volume in them |")
    print("|---" * (len(BINS) + 2) + "|")
    total = np.zeros((len(BINS), 3), int)
    for comparison in compared:
        counts, share = _detection_counts(comparison)
        total += counts
        print(f"| sub-{comparison.pair.later.participant} | {_cells(counts)} | {share} |")
    print(f"| all | {_cells(total)} | |\n")


def _cells(counts: NDArray[np.int_]) -> str:
    return " | ".join(f"{detected} / {drawn} ({by_masks})" for detected, drawn, by_masks in counts)


def _detection_counts(comparison: ComparedPair) -> tuple[NDArray[np.int_], str]:
    labels = label_lesions(
        comparison.drawn, voxel_volume=comparison.codes.voxel_volume, min_volume=BINS[0][0]
    )
    size = np.bincount(labels.ravel()) * comparison.codes.voxel_volume
    changed = np.isin(comparison.codes.data, CHANGED)
    hit, by_masks = (
        np.isin(np.arange(len(size)), labels[mask])
        for mask in (changed, np.logical_xor(*comparison.masks))
    )
    rows = []
    for low, high in BINS:
        in_bin = (size >= low) & (size < high)
        in_bin[0] = False
        rows.append([(in_bin & hit).sum(), in_bin.sum(), (in_bin & by_masks).sum()])
    total = size[1:].sum()
    share = f"{size[1:][hit[1:]].sum() / total:.2f} ({size[1:][by_masks[1:]].sum() / total:.2f})"
    return np.array(rows), share


def _print_rows(compared: Sequence[ComparedPair]) -> None:
    """Print how many rows of the table agree with no drawn place."""
    print("rows of the table, false ones / all\n")
    print(f"| participant | {' | '.join(ROWS)} | lesions in one mask only, by masks alone |")
    print("|---" * (len(ROWS) + 2) + "|")
    total = np.zeros((len(ROWS) + 1, 2), int)
    for comparison in compared:
        counts = _false_counts(comparison)
        total += counts
        cells = " | ".join(f"{false} / {count}" for false, count in counts)
        print(f"| sub-{comparison.pair.later.participant} | {cells} |")
    print(f"| all | {' | '.join(f'{false} / {count}' for false, count in total)} |\n")


def _false_counts(comparison: ComparedPair) -> NDArray[np.int_]:
    """Count false and all rows of each kind; last, lesions that are in only one mask."""
    spacing = comparison.codes.spacing
    near = ndimage.distance_transform_edt(~comparison.either, sampling=spacing) <= NEAR_MM
    rows = []
    kinds = {"new": Code.NEW, "resolved": Code.RESOLVED}
    for change in ROWS:
        change_rows = [row for row in comparison.rows if row["change"] == change]
        parts = (kinds[change],) if change in kinds else (Code.GAINED, Code.LOST)
        rows.append(
            [
                sum(not _near_drawn_place(comparison, row, parts, near) for row in change_rows),
                len(change_rows),
            ]
        )
    matches = []
    for present, absent in (comparison.masks, comparison.masks[::-1]):
        labels = label_lesions(present, voxel_volume=comparison.codes.voxel_volume, min_volume=3)
        names = set(np.unique(labels).tolist()) - set(np.unique(labels[absent]).tolist()) - {0}
        matches += [bool(near[labels == name].any()) for name in names]
    rows.append([matches.count(False), len(matches)])
    return np.array(rows)


def _near_drawn_place(
    comparison: ComparedPair, row: dict[str, str], parts: tuple[Code, ...], near: Mask
) -> bool:
    """Return whether a drawn place is near the changed voxels of a row.

    The changed voxels are those of the component closest to the centroid of the row.
    """
    labels = ndimage.label(comparison.codes.data > 0, np.ones((3, 3, 3)))[0]
    point = np.array([float(row[f"centroid_{axis}"]) for axis in "xyz"])
    inverse = np.linalg.inv(comparison.codes.affine)
    voxel = inverse[:3, :3] @ point + inverse[:3, 3]
    index = np.argwhere(np.isin(comparison.codes.data, parts))
    if not len(index):
        return False
    gaps = np.linalg.norm((index - voxel) * comparison.codes.spacing, axis=1)
    closest = tuple(index[int(gaps.argmin())])
    blob = (labels == labels[closest]) & np.isin(comparison.codes.data, parts)
    return bool(near[blob].any())


def _print_volumes(compared: Sequence[ComparedPair]) -> None:
    """Print the volumes of change and the measured noise."""
    headings = (
        "participant", "drawn (mL)", "new", "gained", "lost", "resolved", "Dice with drawn",
        "difference of the loads (mL)", "border noise (mm)", "registration (mm)", "notes",
    )  # fmt: skip
    print(f"| {' | '.join(headings)} |")
    print("|---" * len(headings) + "|")
    for comparison in compared:
        unit = comparison.codes.voxel_volume / 1000
        changed = np.isin(comparison.codes.data, CHANGED)
        dice = (
            2 * (changed & comparison.drawn).sum() / max(changed.sum() + comparison.drawn.sum(), 1)
        )
        summary = comparison.pair.later.changes
        loads = [
            record.lesion_load_ml or 0.0
            for record in (comparison.pair.earlier, comparison.pair.later)
        ]
        volumes = [f"{(comparison.codes.data == code).sum() * unit:.2f}" for code in CHANGED]
        cells = [
            f"sub-{comparison.pair.later.participant}", f"{comparison.drawn.sum() * unit:.2f}",
            *volumes,
            f"{dice:.2f}", f"{loads[1] - loads[0]:+.2f}", f"{summary['border_sd_mm']:.2f}",
            f"{summary['registration_disagreement_mm']:.2f}", str(summary["notes"]) or "none",
        ]  # fmt: skip
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    raise SystemExit(main())
