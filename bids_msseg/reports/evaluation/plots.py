"""Plots of an evaluation: automatic against manual load, Bland-Altman and reliability."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from bids_msseg.reports.evaluation.data import ALL, SITE, Row
from bids_msseg.reports.evaluation.tables import anchor_of, format_value
from bids_msseg.reports.images.plots import Mark, Plot, Stroke, bland_altman, plot, round_up

LINES = {
    "upper": "bland_altman_upper_ml",
    "bias": "bland_altman_bias_ml",
    "lower": "bland_altman_lower_ml",
}
"""Statistics drawn across the Bland-Altman plot."""


def agreement_plots(subjects: Sequence[Row], cohort: Iterable[Row]) -> tuple[Plot, ...]:
    """Plot automatic against manual load, and a Bland-Altman plot; empty without both loads."""
    sites = list(dict.fromkeys(str(row["site"]) for row in subjects))
    rows = [row for row in subjects if _has_numbers(row, "volume_manual_ml", "volume_auto_ml")]
    if not rows:
        return ()
    lines = {
        str(row["statistic"]): row
        for row in cohort
        if row["scope"] == ALL and _has_numbers(row, "value")
    }
    return (_scatter(rows, sites), _bland_altman(rows, sites, lines))


def reliability_plot(rows: Sequence[Row]) -> tuple[Plot, ...]:
    """Plot the share of lesion voxels against probability; empty without probabilities."""
    bins = [row for row in rows if _has_numbers(row, "mean_probability", "share_lesion")]
    all_sites = [row for row in bins if row["scope"] == ALL]
    if not all_sites:
        return ()
    names = dict.fromkeys(str(row["name"]) for row in bins if row["scope"] == SITE)
    strokes = [Stroke(((0, 0), (1, 1)), "ideal")]
    strokes += [
        Stroke(
            _curve(row for row in bins if (row["scope"], row["name"]) == (SITE, name)),
            f"site-{i % 4}",
        )
        for i, name in enumerate(names)
    ]
    strokes.append(Stroke(_curve(all_sites), "whole"))
    marks = [
        Mark(
            float(row["mean_probability"]),
            float(row["share_lesion"]),
            f"all sites, mean probability {format_value('', row['mean_probability'])}: "
            f"{format_value('', row['share_lesion'])} of {row['n_voxels']} voxels are lesion",
        )
        for row in all_sites
    ]
    description = (
        "Share of lesion voxels against mean probability, per bin. The dotted line is perfect "
        "calibration; below it, the probabilities are too high."
    )
    labels = ("mean probability of the bin", "share of voxels that are lesion")
    return (plot("Reliability diagram", description, labels, ((0, 1), (0, 1)), marks, strokes),)


def _scatter(rows: Sequence[Row], sites: Sequence[str]) -> Plot:
    names = ("volume_manual_ml", "volume_auto_ml")
    top = round_up(max(float(row[name]) for row in rows for name in names))
    return plot(
        "Automatic and manual load",
        f"Lesion load of {len(rows)} visits. The dotted line is the line of identity. "
        "Select a point to go to the visit.",
        ("manual load (mL)", "automatic load (mL)"),
        ((0, top), (0, top)),
        _marks(rows, sites, *names),
        (Stroke(((0, 0), (top, top)), "ideal"),),
    )


def _bland_altman(rows: Sequence[Row], sites: Sequence[str], lines: dict[str, Row]) -> Plot:
    values = {name: lines[key]["value"] for name, key in LINES.items() if key in lines}
    return bland_altman(
        "Bland-Altman plot",
        f"Automatic minus manual load of {len(rows)} visits, with the mean difference and the "
        "limits of agreement where they are known. Select a point to go to the visit.",
        ("mean of both loads (mL)", "automatic − manual (mL)"),
        _marks(rows, sites, "volume_mean_ml", "volume_difference_ml"),
        {
            name: (float(value), f"{format_value('bland_ml', value)} mL")
            for name, value in values.items()
        },
    )


def _marks(rows: Iterable[Row], sites: Sequence[str], x: str, y: str) -> list[Mark]:
    return [
        Mark(
            float(row[x]),
            float(row[y]),
            f"{row['name']}: "
            f"manual {format_value('volume_manual_ml', row['volume_manual_ml'])} mL, "
            f"automatic {format_value('volume_auto_ml', row['volume_auto_ml'])} mL",
            f"#{anchor_of(str(row['name']))}",
            sites.index(str(row["site"])),
        )
        for row in rows
    ]


def _curve(rows: Iterable[Row]) -> tuple[tuple[float, float], ...]:
    points = [(float(row["mean_probability"]), float(row["share_lesion"])) for row in rows]
    return tuple(sorted(points))


def _has_numbers(row: Row, *names: str) -> bool:
    return all(
        isinstance(row.get(name), int | float) and math.isfinite(row[name]) for name in names
    )
