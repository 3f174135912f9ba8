"""Alignments of real heads whose headers are turned: share recovered, wrong and flagged.

usage: python benchmarks/alignment.py {turns,random,template,visits,mirrored,masks} [options]
(--count N, --seed N, --data FOLDER, --step DEGREES, --limit N)

FOLDER holds ``raw-heads``; the default is ``../shared/data`` beside the repository.

``turns``      every T1w and T2w against its FLAIR, turned about each axis by 20, 40, … 180 degrees
``random``     100 random turns and shifts, distributed over the T1w and T2w images
``template``   every FLAIR with its brain against the template, turned likewise
``visits``     the earlier FLAIR of a participant against the later one, turned likewise
``mirrored``   every T1w, T2w and later FLAIR as it is and with left and right exchanged
``masks``      result of the brain mask check for every FLAIR with its original header

The reference is the alignment found with the original header, moved along with the turned header:
check it in the figures of a report first. An alignment counts as recovered if it is within 3 mm of
the reference, as the mean over the brain, and as flagged if it has a failure reason. The limits in
``bids_msseg/imaging/registration/orientation_search.py`` are based on the ranges of mutual
information (nats at 2 mm), prominence and lead of right and wrong alignments. Targets: 95 % of the
turns recovered, and no alignment both wrong and unflagged.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from bids_msseg.imaging.brain import extract_brain
from bids_msseg.imaging.brain_check import check_brain
from bids_msseg.imaging.conform import canonical
from bids_msseg.imaging.registration.affine import register_affine, register_rigid
from bids_msseg.imaging.registration.orientation import mean_distance
from bids_msseg.imaging.registration.result import Registration
from bids_msseg.imaging.registration.visit_alignment import align_visits
from bids_msseg.imaging.resample import inverse
from bids_msseg.imaging.template import load_template
from bids_msseg.imaging.volume import Affine, Volume, load_volume

PARTS = ("turns", "random", "template", "visits", "mirrored", "masks")
THREADS = 2
RECOVERED_MM = 3.0
TARGET = 0.95
SHIFT_MM = 100.0
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Alignment:
    """An alignment, its failure reason, and the measures that decide it."""

    affine: Affine
    failure_reason: str
    information: float = float("nan")
    prominence: float = float("nan")
    lead: float = float("nan")
    mirrored: float = float("nan")


@dataclass(frozen=True, slots=True)
class Case:
    """An image whose header can be turned.

    ``align`` takes the image (and its mask) with a turned header; ``points`` lie in the fixed
    image's brain, ``middle`` in the middle of the moving image.
    """

    name: str
    moving: Volume
    mask: Mask | None
    points: NDArray[np.float64]
    align: Callable[[Volume, Mask | None], Alignment]

    @property
    def middle(self) -> NDArray[np.float64]:
        """Centre of the moving image in its world coordinates, mm."""
        index = (np.array(self.moving.shape) - 1) / 2
        centre: NDArray[np.float64] = (
            self.moving.affine[:3, :3] @ index + self.moving.affine[:3, 3]
        )
        return centre


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of the alignment of a turned image."""

    motion: str
    off_mm: float
    alignment: Alignment
    seconds: float

    @property
    def right(self) -> bool:
        """Whether the alignment agrees with that of the original header."""
        return self.off_mm <= RECOVERED_MM

    @property
    def angle(self) -> str:
        """Angle of a turn about one axis; ``any`` for random turns."""
        axis, angle = self.motion.split()
        return axis if axis == "any" else angle


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--step", type=int, default=20, help="degrees between turns [20]")
    parser.add_argument("--count", type=int, default=100, help="random turns in all [100]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="take the first N images only")
    options = parser.parse_args()
    if options.part == "masks":
        masks(options.data, options.limit)
        return
    if options.part == "mirrored":
        mirrored(options.data, options.limit)
        return
    source = {"template": to_template, "visits": between_visits}.get(options.part, contrasts)
    cases = list(islice(source(options.data), options.limit))
    if options.part == "random":
        motions = random_motions(options.count, len(cases), options.seed)
    else:
        motions = [about_axes(options.step)] * len(cases)
    report(
        [
            outcome
            for case, case_motions in zip(cases, motions, strict=True)
            for outcome in run(case, case_motions)
        ]
    )


def about_axes(step: int) -> list[tuple[str, Affine]]:
    """List turns about one axis each."""
    angles = range(step, 181, step)
    return [
        (f"{'xyz'[axis]} {angle:3d}°", _linear(angle * np.eye(3)[axis]))
        for axis in range(3)
        for angle in angles
    ]


def random_motions(count: int, cases: int, seed: int) -> list[list[tuple[str, Affine]]]:
    """Draw turns about any axis with shifts of up to 100 mm, shared out among the cases."""
    rng = np.random.default_rng(seed)
    motions: list[list[tuple[str, Affine]]] = [[] for _ in range(cases)]
    for number in range(count):
        motion = np.eye(4)
        motion[:3, :3] = Rotation.random(rng=rng).as_matrix()
        motion[:3, 3] = rng.uniform(-SHIFT_MM, SHIFT_MM, 3)
        angle = np.rad2deg(Rotation.from_matrix(motion[:3, :3]).magnitude())
        motions[number % cases].append((f"any {angle:3.0f}°", motion))
    return motions


def run(case: Case, motions: Sequence[tuple[str, Affine]]) -> Iterator[Outcome]:
    """Align with the original header, then with each turned header."""
    reference = case.align(case.moving, case.mask)
    print(
        f"{case.name:34} as it came   information {reference.information:.3f}  prominence "
        f"{reference.prominence:.2f}  lead {reference.lead:.2f}  {reference.failure_reason}",
        flush=True,
    )
    for motion, transform in motions:
        about = np.eye(4)
        about[:3, 3] = case.middle
        turn = about @ transform @ inverse(about)
        moved, mask = _with_header(case, turn)
        start = time.perf_counter()
        alignment = case.align(moved, mask)
        seconds = time.perf_counter() - start
        off = mean_distance(alignment.affine, turn @ reference.affine, case.points)
        outcome = Outcome(motion, off, alignment, seconds)
        print(
            f"{case.name:34} {motion:12} {off:6.1f} mm off  "
            f"information {alignment.information:.3f}  "
            f"prominence {alignment.prominence:.2f}  lead {alignment.lead:.2f}  {seconds:4.1f} s  "
            f"{'right' if outcome.right else 'WRONG'}"
            f"{', flagged' if alignment.failure_reason else ''}",
            flush=True,
        )
        yield outcome


def report(outcomes: Sequence[Outcome]) -> None:
    """Print recovery by angle, wrong and unflagged alignments, and the ranges of measures."""
    print("\n| turn | alignments | recovered | flagged | wrong and unflagged |")
    print("|---|---|---|---|---|")
    for angle in dict.fromkeys(outcome.angle for outcome in outcomes):
        print(_row(angle, [outcome for outcome in outcomes if outcome.angle == angle]))
    print(_row("all", outcomes))
    for name in ("information", "prominence", "lead"):
        ranges = []
        for right in (True, False):
            values = [
                getattr(outcome.alignment, name) for outcome in outcomes if outcome.right == right
            ]
            finite = [value for value in values if not np.isnan(value)]
            ends = f"{min(finite):.2f} to {max(finite):.2f}" if finite else "none"
            ranges.append(f"{'right' if right else 'wrong'} {ends} (n {len(finite)})")
        print(f"{name}: {'; '.join(ranges)}")
    times = [outcome.seconds for outcome in outcomes]
    searched = [outcome.seconds for outcome in outcomes if not np.isnan(outcome.alignment.lead)]
    print(f"seconds: median {np.median(times):.1f}, most {max(times):.1f}; "
          f"searched {len(searched)} of {len(times)}")  # fmt: skip
    share = sum(outcome.right for outcome in outcomes) / len(outcomes)
    missed = sum(
        not outcome.right and not outcome.alignment.failure_reason for outcome in outcomes
    )
    print(f"recovered {share:.1%} (target {TARGET:.0%}); wrong and unflagged {missed} of "
          f"{len(outcomes)} (target 0)")  # fmt: skip


def _row(label: str, outcomes: Sequence[Outcome]) -> str:
    right = sum(outcome.right for outcome in outcomes)
    flagged = sum(bool(outcome.alignment.failure_reason) for outcome in outcomes)
    missed = sum(
        not outcome.right and not outcome.alignment.failure_reason for outcome in outcomes
    )
    share = right / len(outcomes)
    return f"| {label} | {len(outcomes)} | {right} ({share:.0%}) | {flagged} | {missed} |"


def contrasts(data: Path) -> Iterator[Case]:
    """Yield every T1w and T2w to be aligned with its FLAIR, as in a visit."""
    for path in sorted((data / "raw-heads").glob("sub-*/**/*_T[12]w.nii.gz")):
        flair = path.with_name(path.name.rsplit("_", 1)[0] + "_FLAIR.nii.gz")
        fixed, moving = (canonical(load_volume(image_path)) for image_path in (flair, path))
        brain = extract_brain(fixed)

        def align(
            image: Volume, _: Mask | None, fixed: Volume = fixed, brain: Mask = brain
        ) -> Alignment:
            registration = register_rigid(image, fixed, fixed_mask=brain, threads=THREADS)
            return _alignment(registration)

        yield Case(_name(path), moving, None, _points(fixed, brain), align)


def _alignment(registration: Registration) -> Alignment:
    return Alignment(
        registration.affine,
        registration.failure_reason,
        registration.metric_after,
        registration.prominence,
        registration.lead,
        registration.mirrored,
    )


def to_template(data: Path) -> Iterator[Case]:
    """Yield every FLAIR with its brain mask to be aligned with the template."""
    template = load_template()
    for path in _flairs(data):
        moving = canonical(load_volume(path))
        brain = extract_brain(moving)

        def align(image: Volume, mask: Mask | None) -> Alignment:
            registration = register_affine(
                image,
                template.volume,
                moving_mask=mask,
                fixed_mask=template.mask,
                threads=THREADS,
            )
            return _alignment(registration)

        yield Case(_name(path), moving, brain, _points(template.volume, template.mask), align)


def between_visits(data: Path) -> Iterator[Case]:
    """Yield the first FLAIR of each participant to be aligned with the second one.

    Both show the brain alone, as in OUT.
    """
    by_participant: dict[str, list[Path]] = {}
    for path in _flairs(data):
        by_participant.setdefault(path.name.partition("_")[0], []).append(path)
    for earlier, later in (paths for paths in by_participant.values() if len(paths) == 2):
        moving, fixed = (canonical(load_volume(image_path)) for image_path in (earlier, later))
        moving_brain, fixed_brain = extract_brain(moving), extract_brain(fixed)
        fixed = fixed.with_data(np.where(fixed_brain, fixed.data, np.float32(0)))
        moving = moving.with_data(np.where(moving_brain, moving.data, np.float32(0)))

        def align(
            image: Volume, mask: Mask | None, fixed: Volume = fixed, brain: Mask = fixed_brain
        ) -> Alignment:
            inside = image.data > 0 if mask is None else mask
            alignment = align_visits(
                image, fixed, earlier_brain=inside, later_brain=brain, threads=THREADS
            )
            return Alignment(alignment.affine, alignment.failure_reason)

        yield Case(_name(later), moving, moving_brain, _points(fixed, fixed_brain), align)


def mirrored(data: Path, limit: int | None) -> None:
    """Print whether images with left and right exchanged are flagged, and the ratios."""
    flagged = {"as it is": 0, "mirrored": 0}
    count = 0
    for case in islice(chain(contrasts(data), between_visits(data)), limit):
        count += 1
        mask = None if case.mask is None else case.mask[::-1]
        exchanged = case.moving.with_data(case.moving.data[::-1].copy())
        for name, image, inside in (
            ("as it is", case.moving, case.mask),
            ("mirrored", exchanged, mask),
        ):
            alignment = case.align(image, inside)
            flagged[name] += bool(alignment.failure_reason)
            ratio, reason = alignment.mirrored, alignment.failure_reason
            print(f"{case.name:34} {name}  ratio {ratio:.2f}  {reason}", flush=True)
    for name, number in flagged.items():
        print(f"{name}: {number} of {count} flagged")


def masks(data: Path, limit: int | None) -> None:
    """Print the notes and faults of the brain mask check for every FLAIR."""
    template = load_template()
    for path in _flairs(data)[:limit]:
        flair = canonical(load_volume(path))
        brain = extract_brain(flair)
        fit = register_affine(
            flair,
            template.volume,
            moving_mask=brain,
            fixed_mask=template.mask,
            threads=THREADS,
        )
        start = time.perf_counter()
        check = check_brain(
            flair, brain, template.volume.with_data(template.mask), inverse(fit.affine)
        )
        seconds = time.perf_counter() - start
        reported = "; ".join((*check.notes, *check.faults)) or "nothing"
        print(f"{_name(path):34} {seconds:4.1f} s  {reported}", flush=True)


def _flairs(data: Path) -> list[Path]:
    return sorted((data / "raw-heads").glob("sub-*/**/*_FLAIR.nii.gz"))


def _with_header(case: Case, turn: Affine) -> tuple[Volume, Mask | None]:
    """Turn the header, then swap axes to the closest RAS+ order as a visit does."""
    affine = turn @ case.moving.affine
    moved = canonical(Volume(case.moving.data, affine))
    if case.mask is None:
        return moved, None
    return moved, canonical(Volume(case.mask, affine)).data


def _linear(rotation_vector: NDArray[np.float64]) -> Affine:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_rotvec(rotation_vector, degrees=True).as_matrix()
    return affine


def _points(volume: Volume, mask: Mask) -> NDArray[np.float64]:
    index = np.argwhere(mask)[::500].astype(float)
    points: NDArray[np.float64] = index @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    return points


def _name(path: Path) -> str:
    return path.name.removesuffix(".nii.gz")


if __name__ == "__main__":
    main()
