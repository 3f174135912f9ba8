"""Difference in lesion load between two visits, beside the volume of manual changes.

usage: python benchmarks/two_visits.py OUT RAW_HEADS

``OUT`` is the output folder of ``msseg RAW_HEADS OUT participant``. The ``label-change`` masks of
the cohort contain only lesions that changed between the visits (drawn on the FLAIR of each visit),
so a volume is printed beside a difference of volumes, and no agreement is computed. The loads of
two scans also differ by noise.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bids_msseg.bids.record import VisitRecord, read_records
from bids_msseg.imaging.volume import load_volume


def main() -> int:
    """Print one row per participant with two finished visits."""
    parser = argparse.ArgumentParser(description="Compare two visits.")
    parser.add_argument("out", type=Path)
    parser.add_argument("raw_heads", type=Path)
    options = parser.parse_args()
    by_participant: dict[str, list[VisitRecord]] = {}
    for record in read_records(options.out):
        if record.status == "ok":
            by_participant.setdefault(record.participant, []).append(record)
    print("| participant | contrasts | load 1 (mL) | load 2 (mL) | difference (mL) | "
          "changed by hand, on visit 1 / 2 (mL) | of it in our mask 1 / 2 |")  # fmt: skip
    print("|---|---|---|---|---|---|---|")
    for participant, visits in by_participant.items():
        if len(visits) == 2:
            print(
                _row(
                    participant, visits, options.raw_heads / "derivatives" / "manual", options.out
                )
            )
    return 0


def _row(participant: str, visits: list[VisitRecord], manual: Path, out: Path) -> str:
    changed, covered = zip(*(_changed(visit, manual, out) for visit in visits), strict=True)
    first, second = (visit.lesion_load_ml or 0.0 for visit in visits)
    contrasts = " / ".join("+".join(visit.contrasts) for visit in visits)
    cells = [
        f"sub-{participant}", contrasts, f"{first:.2f}", f"{second:.2f}", f"{second - first:+.2f}",
        " / ".join(changed), " / ".join(covered),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _changed(visit: VisitRecord, manual: Path, out: Path) -> tuple[str, str]:
    name = f"{visit.key}_space-FLAIR_label-change_mask.nii.gz"
    path = manual / f"sub-{visit.participant}" / f"ses-{visit.session}" / "anat" / name
    if not path.is_file():
        return "n/a", "n/a"
    manual_change = load_volume(path)
    folder = out / f"sub-{visit.participant}" / f"ses-{visit.session}" / "anat"
    automatic = load_volume(folder / f"{visit.prefix}_space-FLAIR_label-L_mask.nii.gz").data > 0
    inside = manual_change.data > 0
    share = f"{float((automatic & inside).sum()) / inside.sum():.2f}" if inside.any() else "n/a"
    return f"{float(inside.sum()) * manual_change.voxel_volume / 1000:.2f}", share


if __name__ == "__main__":
    raise SystemExit(main())
