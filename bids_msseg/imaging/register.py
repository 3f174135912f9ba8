"""Linear registration: contrasts of one visit onto the FLAIR, a brain onto the template.

SimpleITK optimises Mattes' mutual information (Mattes et al., IEEE TMI 2003, doi
10.1109/TMI.2003.809072) on a pyramid made here, so that thick slices are never interpolated to
finer ones. Every optimisation runs as one ITK work unit: with several, ITK adds up derivatives in
the order in which threads finish, and the last digits change from run to run.

An affine maps FIXED world mm to MOVING world mm (RAS+): what resampling the moving image onto the
fixed grid needs. On disk it is an ITK text transform, which counts in LPS+.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.errors import DataError, NoInputError
from bids_msseg.imaging.files import replacing
from bids_msseg.imaging.orientation import (
    Overlay,
    Point,
    best_starts,
    lead,
    mean_distance,
    mutual_information,
    placed,
    prominence,
    turn_degrees,
)
from bids_msseg.imaging.resample import inverse, mask_onto, resample, smooth_before_coarser
from bids_msseg.imaging.volume import Affine, Volume

BINS = 32
SAMPLES = 40_000
# an affine driven with larger first steps runs away
FIRST_STEP = {"rigid": 0.5, "similarity": 0.5, "affine": 0.125}
POLISH_PACE = 0.25
SPARSE_MM = 8.0
COARSE_MM = 4.0
FINE_MM = 2.0
MARGIN_MM = 6.0
START_APART_MM = 3.0
PITCHES_DEG = (0.0, -20.0, 20.0)
SCALE_RANGE = (0.6, 1.7)
POOR_OVERLAP = 0.85
SURE_INFORMATION = 0.38
"""Nats at 2 mm. Raw heads of one person: .45 to .63 where they are aligned, else .15 to .32."""
CLEAR_OF_TURNS = 1.3
"""An alignment with so many times the information of the image turned or shifted needs no search.
Assumed, as are the next three; ``benchmarks/alignment.py`` prints the prominence
and the lead of right and wrong alignments."""
CLEAR_OF_RIVALS = 1.2
"""An alignment with so many times the information of the next best orientation is right, however
little it is. Expected on raw heads: 1.4 (.45 nats against .32)."""
BETTER_THAN_HEADER = 1.05
"""A template's orientation replaces the header's where it has so many times the information: the
outlines of a brain fit turned nearly as well."""
SAME_MM = 5.0
"""Ends that lie nearer are one place: an optimum at 8 mm is less than a voxel off that at 2 mm."""
STARTS = 6
"""Orientations that are followed beside the header's."""
RISES_MM = (-40.0, -20.0, 0.0, 20.0, 40.0)
"""How much more neck one image may show than the other moves the middle of the head."""
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


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
    doubt : str
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
    doubt: str = ""
    prominence: float = float("nan")
    lead: float = float("nan")


@dataclass(frozen=True, slots=True)
class _Level:
    """One step of the pyramid, ready for ITK."""

    spacing: float
    fixed: Volume
    inside: Volume
    moving: Volume


@dataclass(frozen=True, slots=True)
class _Task:
    """What the searches of one registration share."""

    kind: str
    fine: _Level
    coarse: _Level
    sparse: _Level
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
        With a doubt where neither the information nor the lead over other orientations shows
        that the alignment is right.

    Raises
    ------
    DataError
        If a mask is empty.
    """
    inside = _region(fixed, fixed_mask)
    coarse = _level(moving, fixed, inside, COARSE_MM, moving_mask)
    fine = _level(moving, fixed, inside, FINE_MM, moving_mask)
    centre = _centroid(fixed, inside)
    starts = [np.eye(4)]
    shift = _centroid(moving, _region(moving, moving_mask)) - centre
    if np.linalg.norm(shift) > START_APART_MM:
        starts.append(_translation(shift))
    best = _best_search(coarse, "rigid", starts, centre, seed, threads)
    found = _no_worse_than_header(fine, _refined(fine, "rigid", best, centre, seed))
    task = _task("rigid", fine, coarse, centre, seed, threads)
    found = replace(found, prominence=prominence(task.overlay, found.affine, centre))
    if found.metric_after >= SURE_INFORMATION and found.prominence >= CLEAR_OF_TURNS:
        return found
    return _searched(found, task, _meetings(moving, fixed, moving_mask, fixed_mask))


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
        With a note where the affine is implausible (then only one scale is used); with a note
        and a doubt where the brains' overlap stays poor; with a doubt where the brain fits in
        another orientation than the header's, and in a third one about as well.

    Raises
    ------
    DataError
        If a mask is empty.
    """
    inside, brain = _region(fixed, fixed_mask), _region(moving, moving_mask)
    fixed = fixed.with_data(np.where(inside, fixed.data, 0))
    moving = moving.with_data(np.where(brain, moving.data, 0))
    coarse = _level(moving, fixed, inside, COARSE_MM, brain)
    fine = _level(moving, fixed, inside, FINE_MM, brain)
    centre = _centroid(fixed, inside)
    target = _centroid(moving, brain)
    ratio = moving.voxel_volume * brain.sum() / (fixed.voxel_volume * inside.sum())
    starts = [_start(centre, target, float(np.cbrt(ratio)), pitch) for pitch in PITCHES_DEG]
    similar = _best_search(coarse, "similarity", starts, centre, seed, threads)
    rough = _search(coarse, "affine", similar, centre, seed)
    fit, notes = _plausible_or(_refined(fine, "affine", rough, centre, seed), similar)
    task = _task("similarity", fine, coarse, centre, seed, threads)
    before, after = _information(fine, np.eye(4)), _information(fine, fit)
    found = Registration(
        fit, before, after, notes, prominence=prominence(task.overlay, fit, centre)
    )
    if found.prominence < CLEAR_OF_TURNS:
        first = best_starts(
            task.overlay, [(centre, target)], count=STARTS, scale=float(np.cbrt(ratio))
        )
        found = _searched_affine(found, similar, task, first)
    return _with_overlap(found, moving.with_data(brain), fixed.with_data(inside))


def mask_overlap(moving: Volume, fixed: Volume, affine: Affine) -> float:
    """Dice coefficient of two brain masks after registration.

    Parameters
    ----------
    moving, fixed : Volume
        Masks on their own grids.
    affine : ndarray, shape (4, 4)
        Fixed world mm to moving world mm.

    Returns
    -------
    float
        1 where they agree, 0 where they do not meet.
    """
    moved = mask_onto(moving, fixed.shape, fixed.affine, transform=affine)
    still = np.asarray(fixed.data, bool)
    total = np.count_nonzero(moved) + np.count_nonzero(still)
    return float(2 * np.count_nonzero(moved & still) / total) if total else 0.0


def write_itk_affine(affine: Affine, path: Path) -> None:
    """Write an affine as an ITK text transform, as ANTs and ITK read it.

    Parameters
    ----------
    affine : ndarray, shape (4, 4)
        Fixed world mm to moving world mm, RAS+.
    path : path
        Text file to write; it appears only when complete.
    """
    lps = LPS @ affine @ LPS
    numbers = [*lps[:3, :3].ravel(), *lps[:3, 3]]
    text = "\n".join(
        (
            "#Insight Transform File V1.0",
            "#Transform 0",
            "Transform: AffineTransform_double_3_3",
            "Parameters: " + " ".join(repr(float(number)) for number in numbers),
            "FixedParameters: 0 0 0",
            "",
        )
    )
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="ascii")


def read_itk_affine(path: Path) -> Affine:
    """Read any linear ITK transform, text or binary.

    Parameters
    ----------
    path : path
        File that ITK can read; the transform has to be linear.

    Returns
    -------
    ndarray, shape (4, 4)
        Fixed world mm to moving world mm, RAS+.

    Raises
    ------
    NoInputError
        If the file does not exist.
    DataError
        If it holds no linear 3-D transform.
    """
    if not path.is_file():
        raise NoInputError(f"the transform {path} does not exist", hint="check the path")
    try:
        transform = sitk.ReadTransform(str(path))
    except RuntimeError as error:
        raise _unreadable(path) from error
    if transform.GetDimension() != 3 or not transform.IsLinear():
        raise _unreadable(path)
    return _from_itk(transform)


def as_stored_affine(affine: Affine) -> Affine:
    """Give an affine as :func:`read_itk_affine` reads it after :func:`write_itk_affine`.

    Reading rounds in the last digit: see :func:`~bids_msseg.imaging.volume.as_stored`.

    Parameters
    ----------
    affine : ndarray, shape (4, 4)
        Fixed world mm to moving world mm, RAS+.

    Returns
    -------
    ndarray, shape (4, 4)
    """
    lps = LPS @ affine @ LPS
    transform = sitk.AffineTransform(3)
    transform.SetParameters([float(number) for number in (*lps[:3, :3].ravel(), *lps[:3, 3])])
    return _from_itk(transform)


def _unreadable(path: Path) -> DataError:
    return DataError(
        f"{path} holds no linear 3-D ITK transform", hint="write it again as an ITK affine"
    )


def to_itk(volume: Volume, dtype: type = np.float32) -> sitk.Image:
    """Hand an image to ITK: axes (Z, Y, X) in memory, LPS+ in space.

    Parameters
    ----------
    volume : Volume
        Image with perpendicular axes.
    dtype : type, default float32
        Type of ITK's voxels.

    Returns
    -------
    SimpleITK.Image
    """
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.data.T.astype(dtype)))
    affine = LPS @ volume.affine
    image.SetSpacing([float(edge) for edge in volume.spacing])
    image.SetOrigin([float(x) for x in affine[:3, 3]])
    image.SetDirection([float(x) for x in (affine[:3, :3] / volume.spacing).ravel()])
    return image


def _from_itk(transform: sitk.Transform) -> Affine:
    """Read off a linear transform by where it sends the origin and the unit vectors."""
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    affine = np.eye(4)
    for axis in range(3):
        affine[:3, axis] = np.array(transform.TransformPoint(tuple(np.eye(3)[axis]))) - origin
    affine[:3, 3] = origin
    return LPS @ affine @ LPS


def _region(volume: Volume, mask: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """Give the brain, or the foreground where no mask is given."""
    if mask is None:
        level = np.percentile(volume.data, 99)
        mask = np.asarray(ndimage.binary_fill_holes(volume.data > 0.1 * level), bool)
    if not mask.any():
        raise DataError(
            "there is nothing to register: the brain mask is empty",
            hint="look at the image; give a brain mask, or leave this contrast out",
        )
    return np.asarray(mask, bool)


def _centroid(volume: Volume, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Centre of a mask in world mm, shape (3,)."""
    index = np.array(ndimage.center_of_mass(mask))
    centre: NDArray[np.float64] = volume.affine[:3, :3] @ index + volume.affine[:3, 3]
    return centre


def _translation(shift: NDArray[np.float64]) -> Affine:
    affine = np.eye(4)
    affine[:3, 3] = shift
    return affine


def _start(
    centre: NDArray[np.float64], target: NDArray[np.float64], scale: float, pitch: float
) -> Affine:
    """Rotate about x and scale about the fixed centre, then go to the moving one."""
    angle = np.deg2rad(pitch)
    turn = np.array(
        [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]
    )
    return placed(turn, centre, target, scale)


def _level(
    moving: Volume,
    fixed: Volume,
    inside: NDArray[np.bool_],
    spacing: float,
    moving_mask: NDArray[np.bool_] | None,
) -> _Level:
    """Coarsen both images; the fixed one is cut to the region that is compared."""
    region = fixed.with_data(inside)
    shape, affine = _grid(region, spacing, MARGIN_MM + 2 * spacing)
    kept = mask_onto(region, shape, affine)
    reach = ndimage.distance_transform_edt(~kept, np.linalg.norm(affine[:3, :3], axis=0))
    still = resample(smooth_before_coarser(fixed, spacing), shape, affine)
    whole = moving.with_data(np.ones(moving.shape, bool))
    moved_shape, moved_affine = _grid(whole, spacing, 0.0)
    moved = resample(smooth_before_coarser(moving, spacing), moved_shape, moved_affine)
    seen = _seen(moved, moving, moving_mask, still.with_data(kept))
    return _Level(
        spacing,
        still.with_data(_clipped(still.data, kept)),
        still.with_data(reach <= MARGIN_MM),
        moved.with_data(_clipped(moved.data, seen)),
    )


def _seen(
    moved: Volume, moving: Volume, mask: NDArray[np.bool_] | None, kept: Volume
) -> NDArray[np.bool_]:
    """Where the moving image's brain lies about: it sets the range of the histogram."""
    if mask is not None:
        return mask_onto(moving.with_data(mask), moved.shape, moved.affine)
    guess = mask_onto(kept, moved.shape, moved.affine)
    return guess if 2 * guess.sum() > kept.data.sum() else _region(moved, None)


def _clipped(data: NDArray[Any], inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Limit to the brain's range; a bright scalp would leave it two bins of the histogram."""
    low, high = np.percentile(data[inside] if inside.any() else data, (0.5, 99.5))
    return np.asarray(np.clip(data, min(low, 0.0), high), np.float32)


def _grid(region: Volume, spacing: float, margin: float) -> tuple[tuple[int, int, int], Affine]:
    """Lay a grid of about the given spacing, never finer than stored, around a mask."""
    bounds = [np.flatnonzero(region.data.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    first = np.array([index[0] for index in bounds], float)
    last = np.array([index[-1] for index in bounds], float)
    edges = np.maximum(region.spacing, spacing)
    rim = np.ceil(margin / edges)
    extent = (last - first) * region.spacing / edges
    x, y, z = (int(n) for n in np.ceil(extent + 2 * rim) + 1)
    affine = np.eye(4)
    affine[:3, :3] = region.affine[:3, :3] / region.spacing * edges
    start = region.affine[:3, :3] @ first + region.affine[:3, 3]
    affine[:3, 3] = start - affine[:3, :3] @ rim
    return (x, y, z), affine


def _best_search(
    level: _Level,
    kind: str,
    starts: list[Affine],
    centre: NDArray[np.float64],
    seed: int,
    threads: int,
) -> Affine:
    """Follow every start, take the end with most information; ITK lets go of Python's lock."""
    with ThreadPoolExecutor(max_workers=max(1, min(threads, len(starts)))) as pool:
        ends = list(pool.map(lambda start: _search(level, kind, start, centre, seed), starts))
    return max(ends, key=lambda affine: _information(level, affine))


def _refined(
    level: _Level, kind: str, start: Affine, centre: NDArray[np.float64], seed: int
) -> Affine:
    """Search twice, the second time with short steps: the first may end beside a flat optimum."""
    near = _search(level, kind, start, centre, seed)
    return _search(level, kind, near, centre, seed, pace=POLISH_PACE)


def _search(
    level: _Level,
    kind: str,
    start: Affine,
    centre: NDArray[np.float64],
    seed: int,
    pace: float = 1.0,
) -> Affine:
    """Optimise one kind of transform on one level; the start where that does not help."""
    transform = _itk_start(kind, start, centre)
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfWorkUnits(1)
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricFixedMask(to_itk(level.inside, np.uint8))
    method.SetMetricSamplingStrategy(method.RANDOM)
    share = min(1.0, SAMPLES / np.count_nonzero(level.inside.data))
    # ITK counts seeds in 32 bits and takes 0 for "use the clock"
    method.SetMetricSamplingPercentage(share, seed % (2**32 - 1) + 1)
    method.SetInterpolator(sitk.sitkLinear)
    # the filter blurs by the slice thickness and moves the optimum by more than a millimetre
    method.MetricUseMovingImageGradientFilterOff()
    method.MetricUseFixedImageGradientFilterOff()
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=pace * FIRST_STEP[kind] * level.spacing,
        minStep=pace * level.spacing / 400,
        numberOfIterations=150,
        relaxationFactor=0.7,
        gradientMagnitudeTolerance=1e-8,
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(transform, inPlace=True)
    try:
        method.Execute(to_itk(level.fixed), to_itk(level.moving))
    except RuntimeError:  # the images do not meet from here
        return start
    return max(start, _from_itk(transform), key=lambda affine: _information(level, affine))


def _itk_start(kind: str, start: Affine, centre: NDArray[np.float64]) -> Any:
    """Make ITK's transform of a kind that does what the affine does."""
    kinds: dict[str, Callable[[], Any]] = {
        "rigid": sitk.Euler3DTransform,
        "similarity": sitk.Similarity3DTransform,
        "affine": lambda: sitk.AffineTransform(3),
    }
    lps = LPS @ start @ LPS
    pivot = LPS[:3, :3] @ centre
    transform = kinds[kind]()
    transform.SetCenter([float(x) for x in pivot])
    transform.SetMatrix([float(x) for x in lps[:3, :3].ravel()])
    offset = lps[:3, :3] @ pivot + lps[:3, 3] - pivot
    transform.SetTranslation([float(x) for x in offset])
    return transform


def _information(level: _Level, affine: Affine) -> float:
    """Mutual information in nats of the points inside the fixed mask.

    The points lie off the voxel centres: on them, images whose grids coincide would be compared
    without the blur of interpolation, and the headers' alignment would always look best.
    """
    index = np.argwhere(np.asarray(level.inside.data, bool)).astype(float)
    index += np.random.default_rng(0).uniform(-0.5, 0.5, index.shape)
    chain = np.linalg.inv(level.moving.affine) @ affine @ level.fixed.affine
    moved = index @ chain[:3, :3].T + chain[:3, 3]
    fixed_values = ndimage.map_coordinates(level.fixed.data, index.T, order=1, mode="nearest")
    floor = float(level.moving.data.min())
    moving_values = ndimage.map_coordinates(level.moving.data, moved.T, order=1, cval=floor)
    counts, _, _ = np.histogram2d(fixed_values, moving_values, bins=2 * BINS)
    return mutual_information(counts)


def _no_worse_than_header(level: _Level, found: Affine) -> Registration:
    """Keep the headers' alignment where the search did not improve on it."""
    before, after = _information(level, np.eye(4)), _information(level, found)
    if after >= before:
        return Registration(found, before, after)
    note = "registration did not improve on the headers' alignment, which is kept"
    return Registration(np.eye(4), before, before, (note,))


def _task(
    kind: str, fine: _Level, coarse: _Level, centre: Point, seed: int, threads: int
) -> _Task:
    sparse = _sparser(coarse)
    overlay = Overlay.of(sparse.fixed, np.asarray(sparse.inside.data, bool), sparse.moving)
    return _Task(kind, fine, coarse, sparse, overlay, centre, seed, threads)


def _sparser(level: _Level) -> _Level:
    """Coarsen a level, so that all orientations can be looked at in a second."""
    shape, affine = _grid(level.inside, SPARSE_MM, 0.0)
    still = resample(smooth_before_coarser(level.fixed, SPARSE_MM), shape, affine)
    inside = mask_onto(level.inside, shape, affine)
    whole = level.moving.with_data(np.ones(level.moving.shape, bool))
    moved_shape, moved_affine = _grid(whole, SPARSE_MM, 0.0)
    moved = resample(smooth_before_coarser(level.moving, SPARSE_MM), moved_shape, moved_affine)
    # a region of less than a voxel is compared with its surroundings
    region = inside if inside.any() else np.ones(shape, bool)
    return _Level(SPARSE_MM, still, still.with_data(region), moved)


def _meetings(
    moving: Volume,
    fixed: Volume,
    moving_mask: NDArray[np.bool_] | None,
    fixed_mask: NDArray[np.bool_] | None,
) -> list[tuple[Point, Point]]:
    """Say which points of both worlds may be one: the brains' centres, or about the heads'."""
    if moving_mask is not None and fixed_mask is not None:
        return [(_centroid(fixed, fixed_mask), _centroid(moving, moving_mask))]
    here, there = _middle(fixed), _middle(moving)
    return [(here + np.array([0.0, 0.0, rise]), there) for rise in RISES_MM]


def _middle(volume: Volume) -> Point:
    """Centre of all that is not dark, on every few voxels."""
    steps = [max(1, round(float(edge))) for edge in COARSE_MM / volume.spacing]
    x, y, z = (slice(None, None, step) for step in steps)
    thin = Volume(volume.data[x, y, z], volume.affine @ np.diag([*steps, 1.0]))
    low, high = float(thin.data.min()), float(np.percentile(thin.data, 99))
    bright = thin.data > low + 0.1 * (high - low)
    return _centroid(thin, bright if bright.any() else np.ones_like(bright))


def _searched(
    plain: Registration, task: _Task, meetings: list[tuple[Point, Point]]
) -> Registration:
    """Look at all orientations; keep what was found unless another one is better."""
    places = _places(task, plain.affine, best_starts(task.overlay, meetings, count=STARTS))
    found = plain
    if _differ(task, places[0], plain.affine):
        rough = _search_turned(task.coarse, "rigid", places[0], task)
        turned = rough @ _refined(
            _turned(task.fine, rough), "rigid", np.eye(4), task.centre, task.seed
        )
        after = _information(task.fine, turned)
        if after > plain.metric_after and _differ(task, turned, plain.affine):
            stands_out = prominence(task.overlay, turned, task.centre)
            found = Registration(
                turned, plain.metric_before, after, (_turn_note(turned),), prominence=stands_out
            )
    ahead = lead(task.overlay, found.affine, places, SAME_MM)
    doubt = ""
    if found.metric_after < SURE_INFORMATION and ahead < CLEAR_OF_RIVALS:
        doubt = (
            f"their mutual information is {found.metric_after:.2f} nats, and {ahead:.2f} times "
            "that of the next best orientation"
        )
    return replace(found, doubt=doubt, lead=ahead)


def _searched_affine(
    plain: Registration, similar: Affine, task: _Task, starts: list[Affine]
) -> Registration:
    """Look at all orientations; the header's stays unless another one is clearly better."""
    places = _places(task, similar, starts)
    ahead = lead(task.overlay, similar, places, SAME_MM)
    if ahead * BETTER_THAN_HEADER >= 1.0:
        return replace(plain, lead=ahead)
    best = places[0]
    rough = _search(_turned(task.coarse, best), "affine", np.eye(4), task.centre, task.seed)
    end = _refined(_turned(task.fine, best), "affine", rough, task.centre, task.seed)
    fit, notes = _plausible_or(best @ end, best)
    after = _information(task.fine, fit)
    if after <= plain.metric_after:
        doubt = "another orientation fits better on a coarse grid, and no better on a fine one"
        return replace(plain, doubt=doubt, lead=ahead)
    ahead = lead(task.overlay, best, places, SAME_MM)
    doubt = ""
    if ahead < CLEAR_OF_RIVALS:
        doubt = (
            "the brain fits the template turned, with a mutual information of only "
            f"{ahead:.2f} times that of the next best orientation"
        )
    return Registration(
        affine=fit,
        metric_before=plain.metric_before,
        metric_after=after,
        notes=(_turn_note(fit), *notes),
        doubt=doubt,
        prominence=prominence(task.overlay, fit, task.centre),
        lead=ahead,
    )


def _places(task: _Task, near: Affine, starts: list[Affine]) -> list[Affine]:
    """Follow what was found and other starts on the sparse level; the best end comes first."""

    def end(start: Affine) -> Affine:
        return _search_turned(task.sparse, task.kind, start, task)

    with ThreadPoolExecutor(max_workers=max(1, min(task.threads, 1 + len(starts)))) as pool:
        ends = list(pool.map(end, [near, *starts]))
    return sorted(ends, key=task.overlay.information, reverse=True)


def _search_turned(level: _Level, kind: str, start: Affine, task: _Task) -> Affine:
    """Search from a start that may be turned by any angle."""
    end = _search(_turned(level, start), kind, np.eye(4), task.centre, task.seed)
    return np.asarray(start @ end, np.float64)


def _turned(level: _Level, start: Affine) -> _Level:
    """Lay the moving image where a start puts it, so that the search begins with no turn.

    ITK's angles and versors have singular places at a quarter and at half of a turn.
    """
    moving = Volume(level.moving.data, inverse(start) @ level.moving.affine)
    return replace(level, moving=moving)


def _differ(task: _Task, one: Affine, other: Affine) -> bool:
    return mean_distance(one, other, task.overlay.points) > SAME_MM


def _turn_note(affine: Affine) -> str:
    angle = turn_degrees(affine)
    return f"the header was not followed: a turn of {angle:.0f}° fits better; check left and right"


def _plausible_or(found: Affine, similar: Affine) -> tuple[Affine, tuple[str, ...]]:
    """Fall back on rotation and one scale."""
    if _plausible(found):
        return found, ()
    note = "the affine to the template was implausible; rotation and one scale are used"
    return similar, (note,)


def _with_overlap(found: Registration, moving: Volume, fixed: Volume) -> Registration:
    """Doubt an affine under which the brains do not cover each other."""
    overlap = mask_overlap(moving, fixed, found.affine)
    if overlap >= POOR_OVERLAP:
        return found
    note = f"the brain overlaps the template's by a Dice of {overlap:.2f} only"
    return replace(found, notes=(*found.notes, note), doubt=found.doubt or note)


def _plausible(affine: Affine) -> bool:
    """Whether no direction is stretched or squeezed beyond what heads differ by, none mirrored."""
    stretches = np.linalg.svd(affine[:3, :3], compute_uv=False)
    low, high = SCALE_RANGE
    return bool(low <= stretches.min() and stretches.max() <= high and np.linalg.det(affine) > 0)
