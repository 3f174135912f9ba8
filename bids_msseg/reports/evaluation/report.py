"""Page of an evaluation: automatic against manual masks, in numbers, plots and pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from bids_msseg.reports import page
from bids_msseg.reports.evaluation.comparison import KINDS, PLANES, Scene, Tile
from bids_msseg.reports.evaluation.data import (
    ALL,
    ALL_SITES,
    FALSE,
    METRICS,
    MISSED,
    SITE,
    TABLES,
    VISIT,
    Case,
    Evaluation,
    Row,
)
from bids_msseg.reports.evaluation.plots import agreement_plots, reliability_plot
from bids_msseg.reports.evaluation.tables import (
    Sheet,
    anchor_of,
    format_value,
    heading,
    lesion_anchor,
    pivot,
    sheet,
)
from bids_msseg.reports.images.outlines import UNITS
from bids_msseg.reports.images.plots import MARKERS
from bids_msseg.reports.text import MISSING

FILE_NAME = "evaluation.html"
ROOMY_SUBJECTS = (
    "name", "site", "volume_manual_ml", "volume_auto_ml", "volume_difference_ml",
    "dice", "ppv", "sensitivity", "hd95_mm", "surface_dice_1mm",
    "n_manual", "n_missed", "n_auto", "n_false", "lesion_sensitivity", "lesion_ppv", "lesion_f1",
)  # fmt: skip
"""Columns of the table of visits that are shown at once; the others can be called up."""
LESION_COLUMNS = (
    "index", "side", "state", "volume_mm3", "size", "region", "x", "y", "z", "overlap_share",
    "partners", "mean_probability",
)  # fmt: skip
CASE_FIGURES = ("volume_manual_ml", "volume_auto_ml", "dice", "lesion_f1", "n_missed", "n_false")
HEADLINES = ("dice", "ppv", "sensitivity", "lesion_sensitivity", "lesion_ppv", "lesion_f1")


@dataclass(frozen=True, slots=True)
class Plan:
    """Maximum number of pictures per case."""

    slices: Mapping[str, int]  # by plane
    close_up_planes: int  # axial first
    close_ups: int  # of missed and of false lesions each


@dataclass(frozen=True, slots=True)
class Card:
    """Close-up of a missed or false lesion, with the anchor of its table row."""

    anchor: str
    row_anchor: str
    words: str
    state: str
    tiles: tuple[tuple[Tile, Markup], ...]


@dataclass(frozen=True, slots=True)
class CaseView:
    """One visit as the template of the evaluation page shows it."""

    anchor: str
    name: str
    site: str
    figures: tuple[tuple[str, str, str], ...]  # label, unit, text
    resampled: str
    tiles: tuple[tuple[Tile, Markup], ...]  # with its data URI
    cards: Mapping[str, tuple[Card, ...]]  # by state, missed and false
    totals: Mapping[str, int]  # by state, also lesions without a card
    lesions: Sheet
    strata: Sheet


def write_page(evaluation: Evaluation, out: Path) -> Path:
    """Write the self-contained ``evaluation.html`` and return its path, or CannotCreateError."""
    return page.save(out / FILE_NAME, render_page(evaluation))


def render_page(evaluation: Evaluation) -> str:
    """Render the evaluation page as HTML; cases are loaded one at a time."""
    tables, definitions = evaluation.tables, evaluation.definitions
    states = Counter(str(row["state"]) for row in tables["lesions"])
    plan = plan_for(len(tables["subjects"]), states[MISSED] + states[FALSE])
    script = page.asset("templates/evaluation.js")
    return page.render(
        "evaluation.html",
        title=evaluation.title,
        notes=evaluation.notes,
        headlines=_headlines(tables["sites"]),
        plots=(
            *agreement_plots(tables["subjects"], tables["cohort"]),
            *reliability_plot(tables["reliability"]),
        ),
        sites=list(dict.fromkeys(str(row["site"]) for row in tables["subjects"])),
        subjects=_subjects(tables["subjects"], definitions),
        metrics=pivot(tables["sites"], "site", "metric", "mean", definitions.get("sites", {})),
        compared=_compared(tables.get("segmenters", ()), definitions.get("sites", {})),
        cohort=pivot(
            tables["cohort"], "name", "statistic", "value", definitions.get("cohort", {})
        ),
        strata=_strata(
            (row for row in tables["strata"] if row["scope"] in (SITE, ALL)), definitions
        ),
        cases=[_case_view(case, plan, evaluation) for case in evaluation.cases()],
        plan=plan,
        kinds=KINDS,
        state_names={MISSED: "missed", FALSE: "false-positive"},
        markers=MARKERS,
        units=UNITS,
        files=sorted(tables),
        definitions={
            name: {heading(column).label: text for column, text in columns.items()}
            for name, columns in definitions.items()
        },
        script=script,
        script_hash=page.script_hash(script),
    )


def plan_for(cases: int, disagreements: int) -> Plan:
    """Choose the number of pictures per case, so that pages of large cohorts stay small."""
    counts = (6, 2, 2) if cases <= 30 else (3, 1, 1) if cases <= 80 else (1, 1, 1)
    slices = {plane.name: count for plane, count in zip(PLANES, counts, strict=True)}
    max_close_ups = 1000 if disagreements <= 4000 else max(3, 2000 // max(1, cases))
    return Plan(slices, 3 if disagreements <= 1200 else 1, max_close_ups)


def _case_view(case: Case, plan: Plan, evaluation: Evaluation) -> CaseView:
    scene = Scene(case)
    rows = {
        state: [row for row in case.lesion_rows if row["state"] == state]
        for state in (MISSED, FALSE)
    }
    visit_strata = (
        row
        for row in evaluation.tables["strata"]
        if (row["scope"], row["name"]) == (VISIT, case.name)
    )
    return CaseView(
        anchor=anchor_of(case.name),
        name=case.name,
        site=case.site,
        figures=tuple(
            (
                heading(name).label,
                heading(name).unit,
                format_value(name, case.subject_row.get(name)),
            )
            for name in CASE_FIGURES
        ),
        resampled=format_value("resampled", case.subject_row.get("resampled")),
        tiles=_pictures(scene.slices(plan.slices)),
        cards={
            state: tuple(
                _card(scene, case.name, row, plan) for row in lesion_rows[: plan.close_ups]
            )
            for state, lesion_rows in rows.items()
        },
        totals={state: len(lesion_rows) for state, lesion_rows in rows.items()},
        lesions=_lesions(case, plan, evaluation.definitions),
        strata=_strata(visit_strata, evaluation.definitions),
    )


def _card(scene: Scene, name: str, row: Row, plan: Plan) -> Card:
    side, index = str(row["side"]), int(row["index"])
    row_anchor = lesion_anchor(name, side, index)
    volume = f"{format_value('volume_mm3', row['volume_mm3'])} mm³"
    region = format_value("region", row["region"])
    return Card(
        anchor=f"{row_anchor}-view",
        row_anchor=row_anchor,
        words=", ".join(text for text in (volume, region) if text != MISSING),
        state=f"{row['state']} {index}",
        tiles=_pictures(scene.close_up(side, index, PLANES[: plan.close_up_planes])),
    )


def _pictures(tiles: Iterable[Tile]) -> tuple[tuple[Tile, Markup], ...]:
    return tuple((tile, page.data_uri(tile.png)) for tile in tiles)


def _lesions(case: Case, plan: Plan, definitions: Mapping[str, Mapping[str, str]]) -> Sheet:
    """Build the lesion table; rows of lesions with a close-up link to it."""
    ranks: Counter[str] = Counter()
    links: dict[tuple[str, int], str] = {}
    for row in case.lesion_rows:
        state = str(row["state"])
        ranks[state] += 1
        if state in (MISSED, FALSE) and ranks[state] <= plan.close_ups:
            key = (str(row["side"]), int(row["index"]))
            links[key] = lesion_anchor(case.name, *key) + "-view"
    return sheet(
        case.lesion_rows,
        LESION_COLUMNS,
        definitions.get("lesions", {}),
        link=lambda row: links.get((str(row["side"]), int(row["index"])), ""),
        anchor=lambda row: lesion_anchor(case.name, str(row["side"]), int(row["index"])),
    )


def _subjects(rows: Sequence[Row], definitions: Mapping[str, Mapping[str, str]]) -> Sheet:
    names = [name for name in rows[0] if name not in ROOMY_SUBJECTS] if rows else []
    return sheet(
        rows,
        (*ROOMY_SUBJECTS, *names),
        definitions.get("subjects", {}),
        link=lambda row: anchor_of(str(row["name"])),
        extra=names,
    )


def _compared(
    rows: Sequence[Row], definitions: Mapping[str, str]
) -> tuple[tuple[str, Sheet], ...]:
    """Arrange means and differences of segmenters; empty without rows to compare."""
    if not rows:
        return ()
    first = str(rows[0]["segmenter"])
    ends = {"low": "difference_low", "high": "difference_high", "n_visits": "n_paired"}
    gains = [{**row, **{end: row[name] for end, name in ends.items()}} for row in rows]
    differences = [row for row in gains if row["segmenter"] != first]
    means = pivot(rows, "segmenter", "metric", "mean", definitions)
    gained = pivot(differences, "segmenter", "metric", "difference", definitions)
    return (("Mean metrics", means), (f"Differences from {first}", gained))


def _strata(rows: Iterable[Row], definitions: Mapping[str, Mapping[str, str]]) -> Sheet:
    names = [name for name in TABLES["strata"] if name != "scope"]
    return sheet(list(rows), names, definitions.get("strata", {}))


def _headlines(rows: Sequence[Row]) -> list[tuple[str, str, str, str]]:
    """Return label, mean, interval and visit count of the main metrics over all sites."""
    metrics = {
        row["metric"]: row for row in rows if row["site"] == ALL_SITES and row["metric"] in METRICS
    }
    headlines = []
    for name in HEADLINES:
        if row := metrics.get(name):
            mean, low, high = (format_value(name, row[key]) for key in ("mean", "low", "high"))
            visits = format_value("n_visits", row.get("n_visits"))
            headlines.append((heading(name).label, mean, f"{low} to {high}", visits))
    return headlines
