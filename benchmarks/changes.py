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

from bids_msseg.bids.changes import VisitPair, pair_files, pairs_of, recorded_visit
from bids_msseg.bids.paths import changes_path, output_path
from bids_msseg.bids.record import VisitRecord, read_records
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
class Seen:
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
    with _folder(options.work) as work:
        out = _compared(options.out, work)
        pairs = [pair for records in _people(out).values() for pair in pairs_of(records)]
        seen = [one for pair in pairs if (one := _read(out, manual, pair)) is not None]
    _print_found(seen)
    _print_rows(seen)
    _print_volumes(seen)
    return 0


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


def _people(out: Path) -> dict[str, list[VisitRecord]]:
    people: dict[str, list[VisitRecord]] = {}
    for record in read_records(out):
        people.setdefault(record.participant, []).append(record)
    return people


def _compared(out: Path, work: Path) -> Path:
    """Copy OUT to the work folder, compare visits there if needed, and return the copy."""
    copy = work / "out"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(out, copy, ignore=shutil.ignore_patterns(".work", "*.html"))
    people = list(_people(copy))
    for outcome in compare_participants(people, Execution(work / "nipype", copy)):
        if outcome.failure:
            print(f"sub-{outcome.participant} failed: {outcome.failure.message}")
    return copy


def _read(out: Path, manual: Path, pair: VisitPair) -> Seen | None:
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
        there = volume.with_data(volume.data > 0)
        return mask_onto(there, codes.shape, codes.affine, transform=move)

    table = read_tsv(changes_path(out, later.participant, ".tsv"))
    mine = [row for row in table if row["session_after"] == f"ses-{later.session}"]
    masks = [load_volume(_mask(out, record)) for record in (earlier, later)]
    now = drawn[1].data > 0
    both = (carried(masks[0]), masks[1].data > 0)
    return Seen(pair, codes, now, now | carried(drawn[0]), both, mine)


def _drawn(manual: Path, record: VisitRecord) -> Volume | None:
    name = f"{record.key}_space-FLAIR_label-change_mask.nii.gz"
    folder = manual / f"sub-{record.participant}" / f"ses-{record.session}" / "anat"
    return load_volume(folder / name) if (folder / name).is_file() else None


def _mask(out: Path, record: VisitRecord) -> Path:
    visit = recorded_visit(record)
    return output_path(out, visit, space="FLAIR", label="L", suffix="mask", extension=".nii.gz")


def _print_found(seen: Sequence[Seen]) -> None:
    """Print how many drawn places were found, by size, also by the masks alone."""
    sizes = " | ".join(f"{low:.0f} to {high:g} mm³" for low, high in BINS).replace(
        " to inf", " and more"
    )
    print("drawn places found / drawn (in brackets: by masks alone)\n")
    print(f"| participant | {sizes} | share of the drawn volume in them |")
    print("|---" * (len(BINS) + 2) + "|")
    total = np.zeros((len(BINS), 3), int)
    for one in seen:
        counts, share = _found(one)
        total += counts
        print(f"| sub-{one.pair.later.participant} | {_cells(counts)} | {share} |")
    print(f"| all | {_cells(total)} | |\n")


def _cells(counts: NDArray[np.int_]) -> str:
    return " | ".join(f"{found} / {drawn} ({alone})" for found, drawn, alone in counts)


def _found(one: Seen) -> tuple[NDArray[np.int_], str]:
    labels = label_lesions(one.drawn, voxel_volume=one.codes.voxel_volume, min_volume=BINS[0][0])
    size = np.bincount(labels.ravel()) * one.codes.voxel_volume
    changed = np.isin(one.codes.data, CHANGED)
    hit, by_masks = (
        np.isin(np.arange(len(size)), labels[where])
        for where in (changed, np.logical_xor(*one.masks))
    )
    rows = []
    for low, high in BINS:
        here = (size >= low) & (size < high)
        here[0] = False
        rows.append([(here & hit).sum(), here.sum(), (here & by_masks).sum()])
    whole = size[1:].sum()
    share = f"{size[1:][hit[1:]].sum() / whole:.2f} ({size[1:][by_masks[1:]].sum() / whole:.2f})"
    return np.array(rows), share


def _print_rows(seen: Sequence[Seen]) -> None:
    """Print how many rows of the table agree with no drawn place."""
    print("rows of the table, false ones / all\n")
    print(f"| participant | {' | '.join(ROWS)} | lesions in one mask only, by masks alone |")
    print("|---" * (len(ROWS) + 2) + "|")
    total = np.zeros((len(ROWS) + 1, 2), int)
    for one in seen:
        counts = _false(one)
        total += counts
        cells = " | ".join(f"{false} / {count}" for false, count in counts)
        print(f"| sub-{one.pair.later.participant} | {cells} |")
    print(f"| all | {' | '.join(f'{false} / {count}' for false, count in total)} |\n")


def _false(one: Seen) -> NDArray[np.int_]:
    """Count false and all rows of each kind; last, lesions that are in only one mask."""
    spacing = one.codes.spacing
    near = ndimage.distance_transform_edt(~one.either, sampling=spacing) <= NEAR_MM
    rows = []
    kinds = {"new": Code.NEW, "resolved": Code.RESOLVED}
    for change in ROWS:
        mine = [row for row in one.rows if row["change"] == change]
        parts = (kinds[change],) if change in kinds else (Code.GAINED, Code.LOST)
        rows.append([sum(not _meets(one, row, parts, near) for row in mine), len(mine)])
    alone = []
    for with_it, without in (one.masks, one.masks[::-1]):
        labels = label_lesions(with_it, voxel_volume=one.codes.voxel_volume, min_volume=3)
        names = set(np.unique(labels).tolist()) - set(np.unique(labels[without]).tolist()) - {0}
        alone += [bool(near[labels == name].any()) for name in names]
    rows.append([alone.count(False), len(alone)])
    return np.array(rows)


def _meets(one: Seen, row: dict[str, str], parts: tuple[Code, ...], near: Mask) -> bool:
    """Return whether a drawn place is near the changed voxels of a row.

    The changed voxels are those of the component closest to the centroid of the row.
    """
    labels = ndimage.label(one.codes.data > 0, np.ones((3, 3, 3)))[0]
    point = np.array([float(row[f"centroid_{axis}"]) for axis in "xyz"])
    inverse = np.linalg.inv(one.codes.affine)
    voxel = inverse[:3, :3] @ point + inverse[:3, 3]
    index = np.argwhere(np.isin(one.codes.data, parts))
    if not len(index):
        return False
    gaps = np.linalg.norm((index - voxel) * one.codes.spacing, axis=1)
    closest = tuple(index[int(gaps.argmin())])
    blob = (labels == labels[closest]) & np.isin(one.codes.data, parts)
    return bool(near[blob].any())


def _print_volumes(seen: Sequence[Seen]) -> None:
    """Print the volumes of change and the measured noise."""
    headings = (
        "participant", "drawn (mL)", "new", "gained", "lost", "resolved", "Dice with drawn",
        "difference of the loads (mL)", "border noise (mm)", "registration (mm)", "notes",
    )  # fmt: skip
    print(f"| {' | '.join(headings)} |")
    print("|---" * len(headings) + "|")
    for one in seen:
        unit = one.codes.voxel_volume / 1000
        ours = np.isin(one.codes.data, CHANGED)
        dice = 2 * (ours & one.drawn).sum() / max(ours.sum() + one.drawn.sum(), 1)
        told = one.pair.later.changes
        loads = [record.lesion_load_ml or 0.0 for record in (one.pair.earlier, one.pair.later)]
        volumes = [f"{(one.codes.data == code).sum() * unit:.2f}" for code in CHANGED]
        cells = [
            f"sub-{one.pair.later.participant}", f"{one.drawn.sum() * unit:.2f}", *volumes,
            f"{dice:.2f}", f"{loads[1] - loads[0]:+.2f}", f"{told['border_sd_mm']:.2f}",
            f"{told['registration_disagreement_mm']:.2f}", str(told["notes"]) or "none",
        ]  # fmt: skip
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    raise SystemExit(main())
