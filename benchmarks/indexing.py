"""Time to find the visits of a large dataset: plain pybids and ``find_visits``.

usage: python benchmarks/indexing.py [--participants 1000] [--only-anat]

Writes a skeleton (empty files) of a raw dataset with three contrasts per participant, with or
without functional and diffusion data and a derivative dataset beside it, and prints one line for
each way of indexing it.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

CONTRASTS = ("FLAIR", "T1w", "T2w")
OTHERS = {
    "func": ("task-rest_bold.nii.gz", "task-rest_bold.json", "task-rest_events.tsv"),
    "dwi": ("dwi.nii.gz", "dwi.bval", "dwi.bvec", "dwi.json"),
    "fmap": ("dir-AP_epi.nii.gz", "dir-AP_epi.json"),
}


def write_skeleton(root: Path, participants: int, *, only_anat: bool) -> None:
    root.mkdir()
    description = {"Name": "skeleton", "BIDSVersion": "1.10.1"}
    (root / "dataset_description.json").write_text(json.dumps(description))
    for contrast in CONTRASTS:
        (root / f"{contrast}.json").write_text('{"MagneticFieldStrength": 3}')
    for number in range(participants):
        name = f"sub-{number:05d}"
        anat = [f"{contrast}{end}" for contrast in CONTRASTS for end in (".nii.gz", ".json")]
        folders = {"anat": tuple(anat), **({} if only_anat else OTHERS)}
        for folder, endings in folders.items():
            _touch(root / name / folder, name, endings)
        if not only_anat:
            _touch(root / "derivatives/other" / name / "anat", name, ("desc-preproc_T1w.nii.gz",))


def _touch(folder: Path, name: str, endings: tuple[str, ...]) -> None:
    folder.mkdir(parents=True)
    for ending in endings:
        (folder / f"{name}_{ending}").write_text("{}" if ending.endswith(".json") else "")


def naive(root: Path, _: Path) -> int:
    from bids.layout import BIDSLayout

    return len(BIDSLayout(root).get(suffix="FLAIR", extension=".nii.gz"))


def naive_without_validation(root: Path, _: Path) -> int:
    from bids.layout import BIDSLayout, BIDSLayoutIndexer

    layout = BIDSLayout(root, validate=False, indexer=BIDSLayoutIndexer(index_metadata=False))
    return len(layout.get(suffix="FLAIR", extension=".nii.gz"))


def all_visits(root: Path, _: Path) -> int:
    from bids_msseg.bids.query import find_visits

    return len(find_visits(root).visits)


def one_participant(root: Path, _: Path) -> int:
    from bids_msseg.bids.query import find_visits

    return len(find_visits(root, participants=["00007"]).visits)


def all_visits_stored(root: Path, database: Path) -> int:
    from bids_msseg.bids.query import find_visits

    return len(find_visits(root, database_dir=database).visits)


def one_participant_stored(root: Path, database: Path) -> int:
    from bids_msseg.bids.query import find_visits

    return len(find_visits(root, participants=["00007"], database_dir=database).visits)


WAYS: dict[str, Callable[[Path, Path], int]] = {
    "pybids, as it comes": naive,
    "pybids, no validation, no metadata": naive_without_validation,
    "find_visits": all_visits,
    "find_visits, one participant": one_participant,
    "find_visits, storing the index": all_visits_stored,
    "find_visits, stored index": all_visits_stored,
    "find_visits, one participant, stored index": one_participant_stored,
}


def measure(way: Callable[[Path, Path], int], root: Path, database: Path) -> tuple[int, ...]:
    """Return visits found, wall and CPU milliseconds (with imports), peak memory in MB."""
    start = time.perf_counter()
    count = way(root, database)
    wall = time.perf_counter() - start
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cpu = usage.ru_utime + usage.ru_stime
    return count, round(wall * 1000), round(cpu * 1000), usage.ru_maxrss // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--participants", type=int, default=1000)
    parser.add_argument("--only-anat", action="store_true", help="no func, dwi, fmap, derivatives")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root, database = Path(scratch) / "bids", Path(scratch) / "database"
        write_skeleton(root, options.participants, only_anat=options.only_anat)
        print(f"{'way':<44}{'visits':>8}{'wall s':>9}{'CPU s':>9}{'MB':>6}")
        for name, way in WAYS.items():
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
                count, wall, cpu, memory = executor.submit(measure, way, root, database).result()
            print(f"{name:<44}{count:>8}{wall / 1000:>9.2f}{cpu / 1000:>9.2f}{memory:>6}")


if __name__ == "__main__":
    main()
