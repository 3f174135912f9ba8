"""The plots of an evaluation: loads against each other, their differences, reliability."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from bids_msseg.reports.evaluation.data import ALL, SITE, Row
from bids_msseg.reports.evaluation.tables import anchor_of, shown
from bids_msseg.reports.images.plots import Mark, Plot, Stroke, plot, round_up

LIMITS = {
    "bland_altman_upper_ml": ("limit", "upper limit"),
    "bland_altman_bias_ml": ("bias", "mean difference"),
    "bland_altman_lower_ml": ("limit", "lower limit"),
}
"""Statistics drawn across the Bland-Altman plot: look and words."""
ROOM = 0.12
"""Free share of an axis beyond the outermost point."""


def agreement_plots(subjects: Sequence[Row], cohort: Iterable[Row]) -> tuple[Plot, ...]:
    """Draw automatic against manual load, and Bland and Altman's plot.

    After Bland and Altman, Lancet 1986, doi:10.1016/S0140-6736(86)90837-8.

    Parameters
    ----------
    subjects : sequence of mapping
        Rows of ``subjects``; those without both loads are left out.
    cohort : iterable of mapping
        Rows of ``cohort``, for the lines.

    Returns
    -------
    tuple of Plot
        None where no visit has both loads.
    """
    sites = list(dict.fromkeys(str(row["site"]) for row in subjects))
    rows = [row for row in subjects if _known(row, "volume_manual_ml", "volume_auto_ml")]
    if not rows:
        return ()
    lines = {str(r["statistic"]): r for r in cohort if r["scope"] == ALL and _known(r, "value")}
    return (_scatter(rows, sites), _bland_altman(rows, sites, lines))


def reliability_plot(rows: Sequence[Row]) -> tuple[Plot, ...]:
    """Draw how often voxels of a probability are lesion.

    Parameters
    ----------
    rows : sequence of mapping
        Rows of ``reliability``.

    Returns
    -------
    tuple of Plot
        None where there were no probabilities.
    """
    known = [row for row in rows if _known(row, "mean_probability", "share_lesion")]
    whole = [row for row in known if row["scope"] == ALL]
    if not whole:
        return ()
    names = dict.fromkeys(str(row["name"]) for row in known if row["scope"] == SITE)
    strokes = [Stroke(((0, 0), (1, 1)), "ideal")]
    strokes += [
        Stroke(
            _curve(r for r in known if (r["scope"], r["name"]) == (SITE, name)), f"site-{i % 4}"
        )
        for i, name in enumerate(names)
    ]
    strokes.append(Stroke(_curve(whole), "whole"))
    marks = [
        Mark(
            float(row["mean_probability"]),
            float(row["share_lesion"]),
            f"all sites, mean probability {shown('', row['mean_probability'])}: "
            f"{shown('', row['share_lesion'])} of {row['n_voxels']} voxels are lesion",
        )
        for row in whole
    ]
    words = (
        "Share of lesion voxels against their mean probability. On the dotted line a probability "
        "is what it says; below it the nets are too sure."
    )
    labels = ("mean probability of the bin", "share of voxels that are lesion")
    return (plot("Reliability", words, labels, ((0, 1), (0, 1)), marks, strokes),)


def _scatter(rows: Sequence[Row], sites: Sequence[str]) -> Plot:
    names = ("volume_manual_ml", "volume_auto_ml")
    top = round_up(max(float(row[name]) for row in rows for name in names))
    return plot(
        "Automatic against manual load",
        f"Lesion load of {len(rows)} visits. On the dotted line both agree. "
        "Select a point to go to the visit.",
        ("manual load (mL)", "automatic load (mL)"),
        ((0, top), (0, top)),
        _marks(rows, sites, *names),
        (Stroke(((0, 0), (top, top)), "ideal"),),
    )


def _bland_altman(rows: Sequence[Row], sites: Sequence[str], lines: dict[str, Row]) -> Plot:
    names = ("volume_mean_ml", "volume_difference_ml")
    right = round_up(max(float(row[names[0]]) for row in rows))
    values = [float(row[names[1]]) for row in rows]
    drawn = {name: float(lines[name]["value"]) for name in LIMITS if name in lines}
    low, high = min([0, *values, *drawn.values()]), max([0, *values, *drawn.values()])
    room = ROOM * (high - low) or 1.0
    strokes = [Stroke(((0, 0), (right, 0)), "ideal")]
    for name, value in drawn.items():
        style, words = LIMITS[name]
        points = ((0.0, value), (right, value))
        strokes.append(Stroke(points, style, f"{words} {shown('bland_ml', value)} mL"))
    return plot(
        "Difference and mean (Bland-Altman)",
        f"Automatic minus manual load of {len(rows)} visits, with the mean difference and the "
        "limits of agreement where they are known. Select a point to go to the visit.",
        ("mean of both loads (mL)", "automatic − manual (mL)"),
        ((0, right), (low - room, high + room)),
        _marks(rows, sites, *names),
        strokes,
    )


def _marks(rows: Iterable[Row], sites: Sequence[str], x: str, y: str) -> list[Mark]:
    return [
        Mark(
            float(row[x]),
            float(row[y]),
            f"{row['name']}: manual {shown('volume_manual_ml', row['volume_manual_ml'])} mL, "
            f"automatic {shown('volume_auto_ml', row['volume_auto_ml'])} mL",
            f"#{anchor_of(str(row['name']))}",
            sites.index(str(row["site"])),
        )
        for row in rows
    ]


def _curve(rows: Iterable[Row]) -> tuple[tuple[float, float], ...]:
    points = [(float(row["mean_probability"]), float(row["share_lesion"])) for row in rows]
    return tuple(sorted(points))


def _known(row: Row, *names: str) -> bool:
    return all(
        isinstance(row.get(name), int | float) and math.isfinite(row[name]) for name in names
    )
