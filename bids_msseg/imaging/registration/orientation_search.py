"""Search over all orientations from the best starts on a sparse grid, and mirror check."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from bids_msseg.imaging.registration import pyramid
from bids_msseg.imaging.registration.orientation import (
    LEAST,
    Overlay,
    Point,
    best_starts,
    lead,
    mean_distance,
    prominence,
    turn_degrees,
)
from bids_msseg.imaging.registration.result import Registration, plausible_or
from bids_msseg.imaging.resample import inverse
from bids_msseg.imaging.volume import Affine, Volume

SURE_INFORMATION = 0.38
"""Nats at 2 mm. Raw heads of one person: .45 to .63 where they are aligned, else .15 to .32."""
# assumed, as are the next three: see benchmarks/alignment.py
MIN_PROMINENCE = 1.3
"""Information divided by that of the turned or shifted image from which no search is needed."""
MIN_LEAD = 1.2
"""Information divided by that of the next best orientation, expected to be 1.4 on raw heads."""
BETTER_THAN_HEADER = 1.05
"""Smallest ratio of information for which another orientation replaces that of the header."""
SAME_MM = 5.0
"""Ends within this distance are one optimum: less than a voxel at 8 mm."""
STARTS, TEMPLATE_STARTS = 24, 6
"""Orientations from which searches of a head and of a brain start, besides the header's."""
REFINED = 3
"""Largest number of ends that are refined and compared at 2 mm."""
NEARLY_BEST = 0.85
"""Smallest share of the best information at 8 mm for such an end."""
MAX_MIRRORED = 1.1
"""Largest information ratio of the mirrored image with which an alignment is used."""


@dataclass(frozen=True, slots=True)
class Task:
    """Data shared by the searches of one registration."""

    kind: str
    fine: pyramid.Level
    coarse: pyramid.Level
    sparse: pyramid.Level
    overlay: Overlay
    centre: Point
    seed: int
    threads: int


def make_task(
    kind: str,
    fine: pyramid.Level,
    coarse: pyramid.Level,
    centre: Point,
    seed: int,
    threads: int,
    *,
    wide: pyramid.Level | None = None,
) -> Task:
    """Build the data that the searches of one registration share.

    The sparse level is made from ``wide`` if given, otherwise from ``coarse``.
    """
    sparse = pyramid.sparser(wide or coarse)
    overlay = Overlay.of(sparse.fixed, np.asarray(sparse.inside.data, bool), sparse.moving)
    return Task(kind, fine, coarse, sparse, overlay, centre, seed, threads)


def search_orientations(
    initial: Registration, task: Task, point_pairs: list[tuple[Point, Point]]
) -> Registration:
    """Search all orientations; keep the result unless another one is better."""
    optima = _find_optima(
        task, initial.affine, best_starts(task.overlay, point_pairs, count=STARTS)
    )
    rivals = _refine_all(task, _rivals(task, optima, initial.affine))
    results = [initial]
    for rival in rivals:
        if _differ(task, rival, initial.affine):
            after = pyramid.information(task.fine, rival)
            results.append(Registration(rival, initial.metric_before, after, (_turn_note(rival),)))
    result = max(results, key=lambda registration: registration.metric_after)
    if result is not initial:
        result = replace(result, prominence=prominence(task.overlay, result.affine, task.centre))
    lead_ratio = lead(task.overlay, result.affine, optima, SAME_MM)
    failure_reason = ""
    if result.metric_after < SURE_INFORMATION and lead_ratio < MIN_LEAD:
        failure_reason = (
            f"the mutual information is {result.metric_after:.2f} nats, only "
            f"{lead_ratio:.2f} times that of the next best orientation"
        )
    return replace(result, failure_reason=failure_reason, lead=lead_ratio)


def _rivals(task: Task, optima: list[Affine], initial: Affine) -> list[Affine]:
    """Return the best distinct ends of a search that are not the initial alignment."""
    least = NEARLY_BEST * task.overlay.information(optima[0])
    chosen: list[Affine] = []
    for optimum in optima:
        if len(chosen) == REFINED or task.overlay.information(optimum) < least:
            break
        if all(_differ(task, optimum, other) for other in (initial, *chosen)):
            chosen.append(optimum)
    return chosen


def _refine_all(task: Task, optima: list[Affine]) -> list[Affine]:
    """Refine rigid alignments on the coarse and the fine level."""

    def refine(optimum: Affine) -> Affine:
        rough = _search_turned(task.coarse, "rigid", optimum, task)
        level = _turned(task.fine, rough)
        return rough @ pyramid.refine(level, "rigid", np.eye(4), task.centre, task.seed)

    with ThreadPoolExecutor(max_workers=max(1, min(task.threads, len(optima)))) as pool:
        return list(pool.map(refine, optima))


def with_mirror_check(registration: Registration, task: Task) -> Registration:
    """Add a failure reason if the image fits better with left and right exchanged."""
    if registration.failure_reason:
        return registration
    starts = (registration.affine, registration.affine @ _reflection(task.centre))
    # both ends of a search on one level: the optimum differs between levels
    ends = (_search_turned(task.coarse, "rigid", start, task) for start in starts)
    information, mirrored = (pyramid.information(task.coarse, end) for end in ends)
    ratio = mirrored / max(information, LEAST)
    failure_reason = ""
    if ratio > MAX_MIRRORED:
        failure_reason = (
            "left and right seem to be exchanged in one of the two images: the mirrored image "
            f"has {ratio:.2f} times the mutual information"
        )
    return replace(registration, mirrored=ratio, failure_reason=failure_reason)


def _reflection(centre: Point) -> Affine:
    """Return the affine that exchanges left and right about ``centre``."""
    affine = np.diag([-1.0, 1.0, 1.0, 1.0])
    affine[0, 3] = 2 * centre[0]
    return affine


def search_affine_orientations(
    initial: Registration, similarity: Affine, task: Task, starts: list[Affine]
) -> Registration:
    """Search all orientations; keep the header's unless another one is clearly better."""
    optima = _find_optima(task, similarity, starts)
    lead_ratio = lead(task.overlay, similarity, optima, SAME_MM)
    if lead_ratio * BETTER_THAN_HEADER >= 1.0:
        return replace(initial, lead=lead_ratio)
    best = optima[0]
    rough = pyramid.search(_turned(task.coarse, best), "affine", np.eye(4), task.centre, task.seed)
    end = pyramid.refine(_turned(task.fine, best), "affine", rough, task.centre, task.seed)
    fit, notes = plausible_or(best @ end, best)
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


def _find_optima(task: Task, near: Affine, starts: list[Affine]) -> list[Affine]:
    """Search from ``near`` and the starts on the sparse level; sort the ends, best first."""

    def end(start: Affine) -> Affine:
        return _search_turned(task.sparse, task.kind, start, task)

    with ThreadPoolExecutor(max_workers=max(1, min(task.threads, 1 + len(starts)))) as pool:
        ends = list(pool.map(end, [near, *starts]))
    return sorted(ends, key=task.overlay.information, reverse=True)


def _search_turned(level: pyramid.Level, kind: str, start: Affine, task: Task) -> Affine:
    """Search from a start that may be turned by any angle."""
    end = pyramid.search(_turned(level, start), kind, np.eye(4), task.centre, task.seed)
    return np.asarray(start @ end, np.float64)


def _turned(level: pyramid.Level, start: Affine) -> pyramid.Level:
    """Apply a start to the moving image, so that the search begins without rotation."""
    # ITK's angles and versors are singular at a quarter turn and at half a turn
    moving = Volume(level.moving.data, inverse(start) @ level.moving.affine)
    return replace(level, moving=moving)


def _differ(task: Task, first: Affine, second: Affine) -> bool:
    return mean_distance(first, second, task.overlay.points) > SAME_MM


def _turn_note(affine: Affine) -> str:
    angle = turn_degrees(affine)
    return (
        "the orientation of the header was not used, because a rotation by "
        f"{angle:.0f}° fits better: check left and right"
    )
