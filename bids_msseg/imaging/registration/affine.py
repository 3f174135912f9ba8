"""Linear registration of contrasts to the FLAIR of a visit, and of a brain to a template.

Mutual information of Mattes et al. 2003 (doi 10.1109/TMI.2003.809072) on a pyramid that never
interpolates thick slices to finer ones. An affine maps FIXED world mm to MOVING world mm (RAS+).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.imaging.registration import pyramid
from bids_msseg.imaging.registration.orientation import (
    Point,
    best_starts,
    prominence,
    similarity_affine,
)
from bids_msseg.imaging.registration.orientation_search import (
    MIN_PROMINENCE,
    SURE_INFORMATION,
    TEMPLATE_STARTS,
    Task,
    make_task,
    search_affine_orientations,
    search_orientations,
    with_mirror_check,
)
from bids_msseg.imaging.registration.result import Registration, plausible_or
from bids_msseg.imaging.resample import mask_onto
from bids_msseg.imaging.volume import Affine, Volume

__all__ = ["register_affine", "register_rigid"]

COARSE_MM, FINE_MM = 4.0, 2.0
MIN_START_DISTANCE_MM = 3.0
PITCHES_DEG = (0.0, -20.0, 20.0)
RISES_MM = (-40.0, -20.0, 0.0, 20.0, 40.0)
"""Offsets of the middle of the head if one image shows more of the neck."""
POOR_OVERLAP = 0.85


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
    over all orientations, whose best end is taken where it is better. If no moving mask is given,
    orientations are ranked by the outline of the head.

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
        shows that the alignment is right, or if the image fits better with left and right
        exchanged.

    Raises
    ------
    DataError
        If a mask is empty.
    """
    inside = pyramid.compared_region(fixed, fixed_mask)
    coarse = pyramid.build_level(moving, fixed, inside, COARSE_MM, moving_mask)
    fine = pyramid.build_level(moving, fixed, inside, FINE_MM, moving_mask)
    centre = _centroid(fixed, inside)
    starts = [np.eye(4)]
    shift = _centroid(moving, pyramid.compared_region(moving, moving_mask)) - centre
    if np.linalg.norm(shift) > MIN_START_DISTANCE_MM:
        starts.append(_translation(shift))
    best = pyramid.best_search(coarse, "rigid", starts, centre, seed, threads)
    registration = _no_worse_than_header(fine, pyramid.refine(fine, "rigid", best, centre, seed))
    task = make_task("rigid", fine, coarse, centre, seed, threads)
    registration = replace(
        registration, prominence=prominence(task.overlay, registration.affine, centre)
    )
    checked = registration
    if _is_doubtful(registration) and moving_mask is None:
        task = _whole_head_task(moving, fixed, inside, centre, seed, threads)
        checked = _measured_again(registration, task)
    if _is_doubtful(checked):
        points = _meeting_points(moving, fixed, moving_mask, fixed_mask)
        checked = search_orientations(checked, task, points)
    if np.array_equal(checked.affine, registration.affine):
        # measured as without a check
        before, after = registration.metric_before, registration.metric_after
        checked = replace(checked, metric_before=before, metric_after=after)
    return with_mirror_check(checked, task)


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

    Both images are cut to their brains, because FLAIR and T1w share few edges besides the
    outline. Starts from the brains' centres and volumes with three pitches of the head, finds
    rotation and one scale, then the full affine. A fit that does not stand out is checked by a
    search over all orientations.

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
    centre = _centroid(fixed, inside)
    target = _centroid(moving, brain)
    ratio = moving.voxel_volume * brain.sum() / (fixed.voxel_volume * inside.sum())
    starts = [_start_affine(centre, target, float(np.cbrt(ratio)), pitch) for pitch in PITCHES_DEG]
    similarity = pyramid.best_search(coarse, "similarity", starts, centre, seed, threads)
    rough = pyramid.search(coarse, "affine", similarity, centre, seed)
    fit, notes = plausible_or(pyramid.refine(fine, "affine", rough, centre, seed), similarity)
    task = make_task("similarity", fine, coarse, centre, seed, threads)
    before, after = pyramid.information(fine, np.eye(4)), pyramid.information(fine, fit)
    registration = Registration(
        fit, before, after, notes, prominence=prominence(task.overlay, fit, centre)
    )
    if registration.prominence < MIN_PROMINENCE:
        first = best_starts(
            task.overlay, [(centre, target)], count=TEMPLATE_STARTS, scale=float(np.cbrt(ratio))
        )
        registration = search_affine_orientations(registration, similarity, task, first)
    return _with_overlap(registration, moving.with_data(brain), fixed.with_data(inside))


def mask_overlap(moving: Volume, fixed: Volume, affine: Affine) -> float:
    """Return the Dice of two masks; ``affine`` maps fixed world mm to moving world mm."""
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


def _is_doubtful(registration: Registration) -> bool:
    """Whether other orientations could fit better."""
    unclear = registration.prominence < MIN_PROMINENCE
    return registration.metric_after < SURE_INFORMATION or unclear


def _whole_head_task(
    moving: Volume,
    fixed: Volume,
    inside: NDArray[np.bool_],
    centre: Point,
    seed: int,
    threads: int,
) -> Task:
    """Prepare a search that does not depend on where the header puts the brain.

    On a sparse grid the outline of the head says more about its orientation than the brain does.
    """
    region = pyramid.deep_region(moving)
    fine, coarse = (
        pyramid.build_level(moving, fixed, inside, spacing, region)
        for spacing in (FINE_MM, COARSE_MM)
    )
    head = pyramid.compared_region(fixed, None)
    wide = pyramid.build_level(moving, fixed, head, COARSE_MM, region)
    return make_task("rigid", fine, coarse, centre, seed, threads, wide=wide)


def _measured_again(registration: Registration, task: Task) -> Registration:
    """Measure an alignment on the levels of another task."""
    before, after = (
        pyramid.information(task.fine, affine) for affine in (np.eye(4), registration.affine)
    )
    return replace(
        registration,
        metric_before=before,
        metric_after=after,
        prominence=prominence(task.overlay, registration.affine, task.centre),
    )


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


def _centroid(volume: Volume, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the centre of a mask in world mm, shape (3,)."""
    index = np.array(ndimage.center_of_mass(mask))
    centre: NDArray[np.float64] = volume.affine[:3, :3] @ index + volume.affine[:3, 3]
    return centre


def _translation(shift: NDArray[np.float64]) -> Affine:
    """Return the affine of a shift without rotation or scaling."""
    affine = np.eye(4)
    affine[:3, 3] = shift
    return affine


def _start_affine(
    centre: NDArray[np.float64], target: NDArray[np.float64], scale: float, pitch: float
) -> Affine:
    """Rotate about x and scale about the fixed centre, then shift to the moving one."""
    angle = np.deg2rad(pitch)
    turn = np.array(
        [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]
    )
    return similarity_affine(turn, centre, target, scale)


def _meeting_points(
    moving: Volume,
    fixed: Volume,
    moving_mask: NDArray[np.bool_] | None,
    fixed_mask: NDArray[np.bool_] | None,
) -> list[tuple[Point, Point]]:
    """Return pairs of fixed and moving points: centres of brains, or of heads at 5 heights."""
    if moving_mask is not None and fixed_mask is not None:
        return [(_centroid(fixed, fixed_mask), _centroid(moving, moving_mask))]
    fixed_middle, moving_middle = _middle(fixed), _middle(moving)
    return [(fixed_middle + np.array([0.0, 0.0, rise]), moving_middle) for rise in RISES_MM]


def _middle(volume: Volume) -> Point:
    """Return the centre of all voxels that are not dark, on a subsampled grid."""
    steps = [max(1, round(float(edge))) for edge in COARSE_MM / volume.spacing]
    x, y, z = (slice(None, None, step) for step in steps)
    thin = Volume(volume.data[x, y, z], volume.affine @ np.diag([*steps, 1.0]))
    low, high = float(thin.data.min()), float(np.percentile(thin.data, 99))
    bright = thin.data > low + 0.1 * (high - low)
    return _centroid(thin, bright if bright.any() else np.ones_like(bright))
