"""Time and peak memory of msseg-evaluate on simulated cases at 1 mm, page included.

usage: python benchmarks/evaluate.py LESION_MASKS [--cases 30] [--nprocs 2] [--keep DIR]

``LESION_MASKS`` is a folder of real lesion masks, used as manual ones. The automatic mask of each
is the same mask moved by a voxel, with some lesions left out and some mirrored ones added;
probability, brain mask and FLAIR are simulated to match. Agreement with such masks is meaningless:
only time and memory are of interest. The simulation is not timed; memory is that of all processes
together.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.imaging.volume import Volume, load_volume, save_volume
from bids_msseg.lesions.instances import label_lesions

EVERY_S = 0.1


def main() -> int:
    """Simulate the cases, run the program and print its time and memory."""
    options = _parse()
    masks = sorted(options.lesion_masks.glob("*_mask.nii.gz"))
    if not masks:
        print(f"no *_mask.nii.gz in {options.lesion_masks}", file=sys.stderr)
        return 66
    with tempfile.TemporaryDirectory() as folder:
        root = options.keep or Path(folder)
        for number in range(options.cases):
            make_case(masks[number % len(masks)], root, number)
        return run(root, options)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time msseg-evaluate.")
    parser.add_argument("lesion_masks", type=Path)
    parser.add_argument("--cases", type=int, default=30)
    parser.add_argument("--nprocs", type=int, default=2)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave cases and outputs there")
    return parser.parse_args()


def make_case(path: Path, root: Path, number: int) -> None:
    """Write one patient: FLAIR, manual and automatic masks, probability and brain mask."""
    rng = np.random.default_rng(number)
    truth = load_volume(path)
    manual = truth.data > 0.5
    auto = perturbed(manual, rng)
    axes = np.ogrid[tuple(slice(-1, 1, complex(0, size)) for size in manual.shape)]
    brain = sum(axis**2 for axis in axes) < 0.8
    flair = np.where(brain, 100 + 80 * manual + rng.normal(0, 10, manual.shape), 0)
    soft = ndimage.gaussian_filter(auto.astype(np.float32), 0.8)
    name = f"sub-{number + 1:02d}"
    manual_folder, auto_folder = (
        root / part / name / "anat" for part in ("raw/derivatives/manual", "auto")
    )
    files = {
        root / "raw" / name / "anat" / f"{name}_FLAIR.nii.gz": flair.astype(np.int16),
        manual_folder / f"{name}_space-FLAIR_label-L_mask.nii.gz": manual,
        manual_folder / f"{name}_space-FLAIR_desc-brain_mask.nii.gz": brain,
        auto_folder / f"{name}_space-FLAIR_label-L_mask.nii.gz": auto,
        auto_folder / f"{name}_space-FLAIR_label-L_probseg.nii.gz": soft,
    }
    for target, data in files.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        save_volume(Volume(data, truth.affine), target)


def perturbed(manual: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Move a mask by a voxel, leave out a third of the lesions and add some mirrored ones."""
    labels = label_lesions(manual, voxel_volume=1.0)
    count = int(labels.max())
    retained, added = rng.random(count + 1) < 2 / 3, rng.random(count + 1) < 1 / 5
    retained[0] = added[0] = False
    moved = np.roll(retained[labels], 1, axis=int(rng.integers(3)))
    return np.asarray(moved | added[labels][::-1])


def run(root: Path, options: argparse.Namespace) -> int:
    """Run the program on the cases; print its wall time, processor time and peak memory."""
    command = [sys.executable, "-m", "bids_msseg.cli.evaluate", str(root / "auto")]
    command += [str(root / "raw/derivatives/manual"), str(root / "out")]
    command += ["--nprocs", str(options.nprocs), "--site", "synthetic"]
    load, start, before = os.getloadavg()[0], time.perf_counter(), os.times()
    with subprocess.Popen(command) as process:  # noqa: S603 (our own command)
        watch = _Watch(process.pid)
        watch.start()
        code = process.wait()
    wall, after = time.perf_counter() - start, os.times()
    cpu = sum(
        getattr(after, name) - getattr(before, name)
        for name in ("children_user", "children_system")
    )
    print(
        f"{options.cases} cases at 1 mm, {options.nprocs} at a time, page included: "
        f"{wall:.0f} s wall, {cpu:.0f} s of processors, {watch.peak / 2**20:.2f} GiB peak memory "
        f"of all processes, load average {load:.1f} before"
    )
    return code


class _Watch(threading.Thread):
    """Thread that samples the resident memory of a process and its descendants, in KiB."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.peak = pid, 0

    def run(self) -> None:
        while Path(f"/proc/{self.pid}").exists():
            self.peak = max(self.peak, sum(_resident(pid) for pid in _family(self.pid)))
            time.sleep(EVERY_S)


def _family(pid: int) -> list[int]:
    """List the IDs of a process and all its descendants."""
    members = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            for child in task.read_text().split():
                members += _family(int(child))
        except OSError:  # it has ended meanwhile
            continue
    return members


def _resident(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0)


if __name__ == "__main__":
    raise SystemExit(main())
