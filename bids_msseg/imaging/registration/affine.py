"""Linear registration of contrasts to the FLAIR of a visit, and of a brain to a template.

SimpleITK optimises Mattes' mutual information (Mattes et al., IEEE TMI 2003, doi
10.1109/TMI.2003.809072) on an image pyramid built here, so that thick slices are never
interpolated to finer ones. Every optimisation runs as one ITK work unit: with several, ITK sums
derivatives in the order in which threads finish, and the last digits differ between runs.

An affine maps FIXED world mm to MOVING world mm (RAS+), as needed to resample the moving image
onto the fixed grid. On disk it is an ITK text transform, which uses LPS+.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bids_msseg.imaging.registration import pyramid
from bids_msseg.imaging.registration.initial_transforms import (
    COARSE_MM,
    centroid,
    meeting_points,
    start_affine,
    translation,
)
from bids_msseg.imaging.registration.orientation import (
    Overlay,
    Point,
    best_starts,
    lead,
    mean_distance,
    prominence,
    turn_degrees,
)
from bids_msseg.imaging.resample import inverse, mask_onto
from bids_msseg.imaging.volume import Affine, Volume

__all__ = ["Registration", "register_affine", "register_rigid"]

FINE_MM = 2.0
MIN_START_DISTANCE_MM = 3.0
PITCHES_DEG = (0.0, -20.0, 20.0)
SCALE_RANGE = (0.6, 1.7)
POOR_OVERLAP = 0.85
SURE_INFORMATION = 0.38
"""Nats at 2 mm. Raw heads of one person: .45 to .63 where they are aligned, else .15 to .32."""
MIN_PROMINENCE = 1.3
"""An alignment with so many times the information of the image turned or shifted needs no search.
Assumed, as are the next three; ``benchmarks/alignment.py`` prints the prominence
and the lead of right and wrong alignments."""
MIN_LEAD = 1.2
"""An alignment with so many times the information of the next best orientation is right, however
little it is. Expected on raw heads: 1.4 (.45 nats against .32)."""
BETTER_THAN_HEADER = 1.05
"""A template's orientation replaces the header's where it has so many times the information: the
outlines of a brain fit turned nearly as well."""
SAME_MM = 5.0
"""Ends that lie nearer are one place: an optimum at 8 mm is less than a voxel off that at 2 mm."""
STARTS = 6
"""Orientations that are followed beside the header's."""


@dataclass(frozen=True, slots=True)
class Registration:
    """Where the moving image lies, seen from the fixed one.

    Attributes
    ----------
    affine : ndarray, shape (4, 4)
        Fixed world mm to moving world mm, RAS+.
    metric_before, metric_after : float
        Mutual information in nats with the headers' alignment and with the affine, measured on
        the same points: those inside the fixed mask; what falls outside the moving image counts
        as background.
    notes : tuple of str
        What a reader of the report should know; empty where all went as usual.
    failure_reason : str
        Why the alignment must not be used; empty where it passed its checks.
    prominence : float
        Information divided by the most of the image turned or shifted, at 8 mm.
    lead : float
        Information divided by that of the next best place of a search over all orientations, at
        8 mm; NaN where no search was needed.
    """

    affine: Affine
    metric_before: float
    metric_after: float
    notes: tuple[str, ...] = ()
    failure_reason: str = ""
    prominence: float = float("nan")
    lead: float = float("nan")


@dataclass(frozen=True, slots=True)
class _Task:
    """Data shared by the searches of one registration."""

    kind: str
    fine: pyramid.Level
    coarse: pyramid.Level
    sparse: pyramid.Level
    overlay: Overlay
    centre: Point
    seed: int
    threads: int


def register_rigid(
    moving: Volume,
    fixed: Volume,
    *,
    moving_mask: NDArray[np.bool_] | None = None,
    fixed_mask: NDArray[np.bool_] | None = None,
    threads: int = 1,
    seed: int = 0,
) -> Registration:
    """Find how the head lies in another image of the same person.

    Starts both from the headers and from the centres of mass, goes on from the better one, and
    never ends worse than the headers: where the search does not raise the mutual information,
    the identity is returned with a note. An end that does not stand out is checked by a search
    over all orientations, whose best end is taken where it is better.

    Parameters
    ----------
    moving : Volume
        Image to bring over, such as the T1w; any contrast.
    fixed : Volume
        Image that stays, such as the FLAIR.
    moving_mask, fixed_mask : ndarray of bool, optional
        Brains on the images' own grids. The fixed one limits where the images are compared (a
        rim of 6 mm is added); without it, all of the fixed image's foreground is compared.
    threads : int, default 1
        How many starts are followed at a time; the result does not depend on it.
    seed : int, default 0
        Which points are compared; the same seed gives the same bytes.

    Returns
    -------
    Registration
        With a failure reason if neither the information nor the lead over other orientations
        shows that the alignment is right.

    Raises
    ------
    DataError
        If a mask is empty.
    """
    inside = pyramid.compared_region(fixed, fixed_mask)
    coarse = pyramid.build_level(moving, fixed, inside, COARSE_MM, moving_mask)
    fine = pyramid.build_level(moving, fixed, inside, FINE_MM, moving_mask)
    centre = centroid(fixed, inside)
    starts = [np.eye(4)]
    shift = centroid(moving, pyramid.compared_region(moving, moving_mask)) - centre
    if np.linalg.norm(shift) > MIN_START_DISTANCE_MM:
        starts.append(translation(shift))
    best = pyramid.best_search(coarse, "rigid", starts, centre, seed, threads)
    registration = _no_worse_than_header(fine, pyramid.refine(fine, "rigid", best, centre, seed))
    task = _make_task("rigid", fine, coarse, centre, seed, threads)
    registration = replace(
        registration, prominence=prominence(task.overlay, registration.affine, centre)
    )
    if registration.metric_after >= SURE_INFORMATION and registration.prominence >= MIN_PROMINENCE:
        return registration
    return _search_orientations(
        registration, task, meeting_points(moving, fixed, moving_mask, fixed_mask)
    )


def register_affine(
    moving: Volume,
    fixed: Volume,
    *,
    moving_mask: NDArray[np.bool_] | None = None,
    fixed_mask: NDArray[np.bool_] | None = None,
    threads: int = 1,
    seed: int = 0,
) -> Registration:
    """Find the affine between a brain and a template of another contrast.

    Both images are cut to their brains, so the outlines speak along with the tissues: FLAIR and
    T1w share few edges otherwise. Starts from the brains' centres and volumes with three pitches
    of the head, finds rotation and one scale, then the full affine. A fit that does not stand out
    is checked by a search over all orientations.

    Parameters
    ----------
    moving : Volume
        Image with or without skull, any contrast.
    fixed : Volume
        Template, such as the T1w brain of MNI152.
    moving_mask, fixed_mask : ndarray of bool, optional
        Brains on the images' own grids; where not given, the foreground is taken, which is right
        for skull-stripped images only.
    threads : int, default 1
        How many starts are followed at a time; the result does not depend on it.
    seed : int, default 0
        Which points are compared; the same seed gives the same bytes.

    Returns
    -------
    Registration
        With a note if the affine is implausible (then only one scale is used). With a note and a
        failure reason if the brains overlap poorly. With a failure reason if the brain fits in
        another orientation than the header's, and in a third one about as well.

    Raises
    ------
    DataError
        If a mask is empty.
    """
    inside = pyramid.compared_region(fixed, fixed_mask)
    brain = pyramid.compared_region(moving, moving_mask)
    fixed = fixed.with_data(np.where(inside, fixed.data, 0))
    moving = moving.with_data(np.where(brain, moving.data, 0))
    coarse = pyramid.build_level(moving, fixed, inside, COARSE_MM, brain)
    fine = pyramid.build_level(moving, fixed, inside, FINE_MM, brain)
    centre = centroid(fixed, inside)
    target = centroid(moving, brain)
    ratio = moving.voxel_volume * brain.sum() / (fixed.voxel_volume * inside.sum())
    starts = [start_affine(centre, target, float(np.cbrt(ratio)), pitch) for pitch in PITCHES_DEG]
    similarity = pyramid.best_search(coarse, "similarity", starts, centre, seed, threads)
    rough = pyramid.search(coarse, "affine", similarity, centre, seed)
    fit, notes = _plausible_or(pyramid.refine(fine, "affine", rough, centre, seed), similarity)
    task = _make_task("similarity", fine, coarse, centre, seed, threads)
    before, after = pyramid.information(fine, np.eye(4)), pyramid.information(fine, fit)
    registration = Registration(
        fit, before, after, notes, prominence=prominence(task.overlay, fit, centre)
    )
    if registration.prominence < MIN_PROMINENCE:
        first = best_starts(
            task.overlay, [(centre, target)], count=STARTS, scale=float(np.cbrt(ratio))
        )
        registration = _search_affine_orientations(registration, similarity, task, first)
    return _with_overlap(registration, moving.with_data(brain), fixed.with_data(inside))


def mask_overlap(moving: Volume, fixed: Volume, affine: Affine) -> float:
    """Return the Dice coefficient of two brain masks after registration.

    The masks are on their own grids; ``affine`` maps fixed world mm to moving world mm.
    """
    moving_brain = mask_onto(moving, fixed.shape, fixed.affine, transform=affine)
    fixed_brain = np.asarray(fixed.data, bool)
    total = np.count_nonzero(moving_brain) + np.count_nonzero(fixed_brain)
    return float(2 * np.count_nonzero(moving_brain & fixed_brain) / total) if total else 0.0


def _no_worse_than_header(level: pyramid.Level, affine: Affine) -> Registration:
    """Keep the headers' alignment if the search did not improve on it."""
    before, after = pyramid.information(level, np.eye(4)), pyramid.information(level, affine)
    if after >= before:
        return Registration(affine, before, after)
    note = "registration did not improve on the headers' alignment, which is kept"
    return Registration(np.eye(4), before, before, (note,))


def _make_task(
    kind: str, fine: pyramid.Level, coarse: pyramid.Level, centre: Point, seed: int, threads: int
) -> _Task:
    sparse = pyramid.sparser(coarse)
    overlay = Overlay.of(sparse.fixed, np.asarray(sparse.inside.data, bool), sparse.moving)
    return _Task(kind, fine, coarse, sparse, overlay, centre, seed, threads)


def _search_orientations(
    initial: Registration, task: _Task, point_pairs: list[tuple[Point, Point]]
) -> Registration:
    """Search all orientations; keep the result unless another one is better."""
    optima = _find_optima(
        task, initial.affine, best_starts(task.overlay, point_pairs, count=STARTS)
    )
    result = initial
    if _differ(task, optima[0], initial.affine):
        rough = _search_turned(task.coarse, "rigid", optima[0], task)
        turned = rough @ pyramid.refine(
            _turned(task.fine, rough), "rigid", np.eye(4), task.centre, task.seed
        )
        after = pyramid.information(task.fine, turned)
        if after > initial.metric_after and _differ(task, turned, initial.affine):
            turned_prominence = prominence(task.overlay, turned, task.centre)
            result = Registration(
                turned,
                initial.metric_before,
                after,
                (_turn_note(turned),),
                prominence=turned_prominence,
            )
    lead_ratio = lead(task.overlay, result.affine, optima, SAME_MM)
    failure_reason = ""
    if result.metric_after < SURE_INFORMATION and lead_ratio < MIN_LEAD:
        failure_reason = (
            f"the mutual information is {result.metric_after:.2f} nats, only "
            f"{lead_ratio:.2f} times that of the next best orientation"
        )
    return replace(result, failure_reason=failure_reason, lead=lead_ratio)


def _search_affine_orientations(
    initial: Registration, similarity: Affine, task: _Task, starts: list[Affine]
) -> Registration:
    """Search all orientations; keep the header's unless another one is clearly better."""
    optima = _find_optima(task, similarity, starts)
    lead_ratio = lead(task.overlay, similarity, optima, SAME_MM)
    if lead_ratio * BETTER_THAN_HEADER >= 1.0:
        return replace(initial, lead=lead_ratio)
    best = optima[0]
    rough = pyramid.search(_turned(task.coarse, best), "affine", np.eye(4), task.centre, task.seed)
    end = pyramid.refine(_turned(task.fine, best), "affine", rough, task.centre, task.seed)
    fit, notes = _plausible_or(best @ end, best)
    after = pyramid.information(task.fine, fit)
    if after <= initial.metric_after:
        failure_reason = "another orientation fits better on a coarse grid, but not on a fine grid"
        return replace(initial, failure_reason=failure_reason, lead=lead_ratio)
    lead_ratio = lead(task.overlay, best, optima, SAME_MM)
    failure_reason = ""
    if lead_ratio < MIN_LEAD:
        failure_reason = (
            "a rotated brain fits the template better, but its mutual information is only "
            f"{lead_ratio:.2f} times that of the next best orientation"
        )
    return Registration(
        affine=fit,
        metric_before=initial.metric_before,
        metric_after=after,
        notes=(_turn_note(fit), *notes),
        failure_reason=failure_reason,
        prominence=prominence(task.overlay, fit, task.centre),
        lead=lead_ratio,
    )


def _find_optima(task: _Task, near: Affine, starts: list[Affine]) -> list[Affine]:
    """Search from ``near`` and the starts on the sparse level; sort the ends, best first."""

    def end(start: Affine) -> Affine:
        return _search_turned(task.sparse, task.kind, start, task)

    with ThreadPoolExecutor(max_workers=max(1, min(task.threads, 1 + len(starts)))) as pool:
        ends = list(pool.map(end, [near, *starts]))
    return sorted(ends, key=task.overlay.information, reverse=True)


def _search_turned(level: pyramid.Level, kind: str, start: Affine, task: _Task) -> Affine:
    """Search from a start that may be turned by any angle."""
    end = pyramid.search(_turned(level, start), kind, np.eye(4), task.centre, task.seed)
    return np.asarray(start @ end, np.float64)


def _turned(level: pyramid.Level, start: Affine) -> pyramid.Level:
    """Apply a start to the moving image, so that the search begins without rotation.

    ITK's angles and versors are singular at a quarter turn and at half a turn.
    """
    moving = Volume(level.moving.data, inverse(start) @ level.moving.affine)
    return replace(level, moving=moving)


def _differ(task: _Task, first: Affine, second: Affine) -> bool:
    return mean_distance(first, second, task.overlay.points) > SAME_MM


def _turn_note(affine: Affine) -> str:
    angle = turn_degrees(affine)
    return (
        "the orientation of the header was not used, because a rotation by "
        f"{angle:.0f}° fits better: check left and right"
    )


def _plausible_or(affine: Affine, similarity: Affine) -> tuple[Affine, tuple[str, ...]]:
    """Return the affine if it is plausible, else rotation and one scale with a note."""
    if _plausible(affine):
        return affine, ()
    note = "the affine to the template was implausible; a similarity transform is used instead"
    return similarity, (note,)


def _with_overlap(registration: Registration, moving: Volume, fixed: Volume) -> Registration:
    """Add a note and a failure reason if the brains overlap poorly."""
    overlap = mask_overlap(moving, fixed, registration.affine)
    if overlap >= POOR_OVERLAP:
        return registration
    note = f"the Dice of the brain masks of image and template is only {overlap:.2f}"
    return replace(
        registration,
        notes=(*registration.notes, note),
        failure_reason=registration.failure_reason or note,
    )


def _plausible(affine: Affine) -> bool:
    """Return whether all scales are within the range of heads and no axis is mirrored."""
    stretches = np.linalg.svd(affine[:3, :3], compute_uv=False)
    low, high = SCALE_RANGE
    return bool(low <= stretches.min() and stretches.max() <= high and np.linalg.det(affine) > 0)
