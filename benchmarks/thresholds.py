"""Choice of probability thresholds, on visits other than those to be scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

GRID: tuple[float, ...] = tuple(round(step / 100, 2) for step in range(2, 100))
SOURCE_TEXT_PPV = 0.859
MAY_LOSE_DICE = 0.02


def counts_by_threshold(
    probability: NDArray[np.floating], truth: NDArray[Any], grid: Sequence[float]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count, for every threshold, the voxels that reach it, and those of them that are lesion.

    One pass over the image, whatever the number of thresholds.

    Parameters
    ----------
    probability : ndarray, shape (X, Y, Z)
    truth : ndarray, shape (X, Y, Z)
        Non-zero inside lesions.
    grid : sequence of float
        Thresholds, rising. They are compared in the type of the probability.

    Returns
    -------
    called, right : ndarray of int64, shape (len(grid),)

    Raises
    ------
    ValueError
        If the two arrays differ in shape, or the grid is empty or does not rise.

    Examples
    --------
    >>> p, t = np.array([[[0.1, 0.5, 0.9, 0.9]]]), np.array([[[0, 1, 1, 0]]])
    >>> counts_by_threshold(p, t, (0.5, 0.8))
    (array([3, 2]), array([2, 1]))
    """
    if probability.shape != truth.shape:
        raise ValueError(f"shapes differ: {probability.shape} and {truth.shape}")
    steps = np.asarray(grid, probability.dtype)
    if not steps.size or (np.diff(np.asarray(grid, float)) <= 0).any():
        raise ValueError("thresholds have to be given, and to rise")
    lesion = truth != 0
    reached = np.searchsorted(steps, probability, side="right")
    everything = np.bincount(reached.ravel(), minlength=len(steps) + 1)
    inside = np.bincount(reached[lesion], minlength=len(steps) + 1)
    called, right = (row[::-1].cumsum()[::-1][1:] for row in (everything, inside))
    return called.astype(np.int64), right.astype(np.int64)


def choose_threshold(
    probabilities: Sequence[NDArray[np.floating]],
    truths: Sequence[NDArray[Any]],
    *,
    ppv: float = SOURCE_TEXT_PPV,
    grid: Sequence[float] = GRID,
) -> float:
    """Find the lowest threshold at which nearly all that is called lesion is lesion.

    Parameters
    ----------
    probabilities : sequence of ndarray, shape (X, Y, Z)
        Final probability of visits that the networks had not seen.
    truths : sequence of ndarray, shape (X, Y, Z)
        Non-zero inside lesions, on the same grids.
    ppv : float, default 0.859
        Positive predictive value to reach, as the mean over the visits. A visit in which no voxel
        reaches the threshold has none and is left out; a threshold that no visit reaches does
        not count.
    grid : sequence of float, default 0.02, 0.03 ... 0.99
        Thresholds to choose from, rising.

    Returns
    -------
    float
        The highest threshold where none will do.

    Raises
    ------
    ValueError
        If there is no visit, or not one truth for each probability.

    Examples
    --------
    >>> p, t = np.array([[[0.3, 0.6, 0.9]]]), np.array([[[0, 0, 1]]])
    >>> choose_threshold([p], [t], ppv=0.5, grid=(0.25, 0.5, 0.75))
    0.5
    """
    called, right, _ = _tables(probabilities, truths, grid)
    good = np.flatnonzero(_mean_of_defined(right, called) >= ppv).tolist()
    return float(grid[good[0] if good else -1])


def best_dice_threshold(
    probabilities: Sequence[NDArray[np.floating]],
    truths: Sequence[NDArray[Any]],
    *,
    grid: Sequence[float] = GRID,
) -> float:
    """Find the threshold with the highest mean Dice over the visits.

    Parameters
    ----------
    probabilities, truths, grid
        See :func:`choose_threshold`.

    Returns
    -------
    float
        Of several equally good ones the one nearest to one half.

    Raises
    ------
    ValueError
        If there is no visit, or not one truth for each probability.

    Examples
    --------
    >>> p, t = np.array([[[0.3, 0.6, 0.9]]]), np.array([[[0, 0, 1]]])
    >>> best_dice_threshold([p], [t], grid=(0.25, 0.5, 0.75))
    0.75
    """
    dice = _dice_by_threshold(probabilities, truths, grid)
    if np.isnan(dice).all():
        dice = np.zeros(len(grid))
    best = np.flatnonzero(dice >= np.nanmax(dice) - 1e-12).tolist()
    return float(min((grid[index] for index in best), key=lambda step: abs(step - 0.5)))


def cautious_threshold(
    probabilities: Sequence[NDArray[np.floating]],
    truths: Sequence[NDArray[Any]],
    *,
    may_lose: float = MAY_LOSE_DICE,
    grid: Sequence[float] = GRID,
) -> float:
    """Find the lowest threshold at which Dice is nearly the best one.

    On another scanner the probabilities of the networks are lower: Dice then falls steeply above
    the best threshold and slowly below it, so the lowest of nearly equal thresholds is chosen.

    Parameters
    ----------
    probabilities, truths, grid
        See :func:`choose_threshold`.
    may_lose : float, default 0.02
        How far the mean Dice over the visits may lie below the best.

    Returns
    -------
    float
        One half where no visit has a lesion, or a voxel to call one.

    Raises
    ------
    ValueError
        If there is no visit, or not one truth for each probability.

    Examples
    --------
    >>> p, t = np.array([[[0.3, 0.6, 0.9]]]), np.array([[[0, 1, 1]]])
    >>> cautious_threshold([p], [t], grid=(0.25, 0.4, 0.5, 0.75))
    0.4
    """
    dice = _dice_by_threshold(probabilities, truths, grid)
    if np.isnan(dice).all():
        return 0.5
    good = np.flatnonzero(dice >= np.nanmax(dice) - may_lose).tolist()
    return float(grid[good[0]])


def _dice_by_threshold(
    probabilities: Sequence[NDArray[np.floating]],
    truths: Sequence[NDArray[Any]],
    grid: Sequence[float],
) -> NDArray[np.float64]:
    """Return the mean Dice per threshold over visits that have one; NaN if none has."""
    called, right, truth = _tables(probabilities, truths, grid)
    return _mean_of_defined(2 * right, called + truth[:, None])


def _tables(
    probabilities: Sequence[NDArray[np.floating]],
    truths: Sequence[NDArray[Any]],
    grid: Sequence[float],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Count voxels called lesion, those rightly called, and lesion voxels.

    The shapes are (visits, thresholds), (visits, thresholds) and (visits,).
    """
    if not len(probabilities):
        raise ValueError("a threshold cannot be chosen on no visit")
    pairs = [
        counts_by_threshold(probability, truth, grid)
        for probability, truth in zip(probabilities, truths, strict=True)
    ]
    called, right = (np.stack([pair[which] for pair in pairs]) for which in (0, 1))
    return called, right, np.array([np.count_nonzero(truth) for truth in truths], np.int64)


def _mean_of_defined(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the mean quotient over visits that have one; NaN if none has."""
    defined = whole > 0
    shares = np.divide(part, whole, out=np.zeros(part.shape), where=defined)
    visits = defined.sum(axis=0)
    mean: NDArray[np.float64] = np.divide(
        shares.sum(axis=0), visits, out=np.full(len(visits), np.nan), where=visits > 0
    )
    return mean
