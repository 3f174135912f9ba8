"""HTML page of a check: detection rates, false positives and agreement of loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bids_msseg.bids.paths import check_path
from bids_msseg.check.files import visit_row
from bids_msseg.check.summary import VisitCheck
from bids_msseg.check.visit import Row
from bids_msseg.reports import page
from bids_msseg.reports.images.plots import Mark, Plot, bland_altman
from bids_msseg.reports.tables import Heading, Table
from bids_msseg.reports.text import MISSING, decimal

Labels = Mapping[str, str]
GROUPS: Final[Labels] = {
    "size": "By size, mm³",
    "region": "By region",
    "strength": "By contrast, relative to the visit's own lesions",
    "size, region": "By size, mm³, and region",
    "size, strength": "By size, mm³, and contrast",
}
OF_EXPERTS: Final = ("size", "region", "size, region")
"""Groups in which lesions that experts drew can be put."""
FALSE_POSITIVES: Final[Labels] = {
    "n_false": "false positives per draw",
    "false_ml": "their volume, mL",
}
LOADS: Final[Labels] = {
    "bias_ml": "mean difference, mL",
    "lower_limit_ml": "lower limit of agreement, mL",
    "upper_limit_ml": "upper limit of agreement, mL",
    "smallest_change_ml": "smallest detectable change, mL",
    "dice": "Dice of both masks",
}
VISITS: Final[Labels] = {
    "participant_id": "participant",
    "session_id": "session",
    "lesion_load_ml": "lesion load, mL",
    "n_painted": "painted",
    "n_found": "found",
    "n_false": "false positives",
    "rescan_difference_ml": "pseudo-rescans − scan, mL",
    "load_sd_ml": "SD of loads, mL",
    "rescan_dice": "Dice",
    "flair_noise": "noise of FLAIR, SD",
    "flags": "quality flags",
}
THESE_SCANS: Final = "these scans"
PAINTED, DRAWN = "labelled cohort, painted", "labelled cohort, experts' lesions"
LINES: Final[Labels] = {"upper": "upper_limit_ml", "bias": "bias_ml", "lower": "lower_limit_ml"}
"""Statistics drawn across the plot."""


def write_page(
    out_dir: Path,
    content: Mapping[str, Any],
    visits: Sequence[VisitCheck],
    reference: Mapping[str, Any] | None,
) -> Path:
    """Write the self-contained ``check.html``; raises CannotCreateError if it cannot."""
    return page.save(check_path(out_dir, ".html"), render_check(content, visits, reference))


def render_check(
    content: Mapping[str, Any],
    visits: Sequence[VisitCheck],
    reference: Mapping[str, Any] | None,
) -> str:
    """Fill the page; ``content`` is that of ``check.json``."""
    headlines = {
        "painted lesions found": _by_level(content, "all")["all"],
        FALSE_POSITIVES["n_false"]: content["FalsePositives"]["n_false"],
        LOADS["smallest_change_ml"]: content["Load"]["smallest_change_ml"],
        LOADS["dice"]: content["Load"]["dice"],
    }
    sources = {THESE_SCANS: content}
    if reference is not None:
        sources[PAINTED] = reference
    volumes = {name: _by_size(source) for name, source in sources.items()}
    false_positives = {name: source["FalsePositives"] for name, source in sources.items()}
    loads = {name: source["Load"] for name, source in sources.items()}
    return page.render(
        "check.html",
        content=content,
        cohort="" if reference is None else str(reference.get("Cohort", "")),
        headlines=[(name, value(row), interval(row)) for name, row in headlines.items()],
        rates=[(title, _rates(by, content, reference)) for by, title in GROUPS.items()],
        volumes=_compare("size, mm³", {size: size for size in volumes[THESE_SCANS]}, volumes),
        false_positives=_compare("", FALSE_POSITIVES, false_positives),
        loads=_compare("", LOADS, loads),
        plots=_agreement(content["Load"], visits),
        visits=_visits(visits),
    )


def value(row: Row) -> str:
    """Format a share as a percentage, or an estimate as a number."""
    if "share" not in row:
        return decimal(row["value"], 3)
    text = decimal(_percent(row["share"]), 0)
    return text if text == MISSING else f"{text} %"


def interval(row: Row) -> str:
    """Format the interval of a share or an estimate; empty if there is none."""
    if "share" in row:
        ends, unit = [decimal(_percent(row[name]), 0) for name in ("low", "high")], " %"
    else:
        ends, unit = [decimal(row[name], 3) for name in ("low", "high")], ""
    return "" if MISSING in ends else " to ".join(ends) + unit


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _value_with_interval(row: Row | None) -> str:
    """Format a value with its interval and its n."""
    if row is None or not row["n"]:
        return MISSING
    ends = interval(row)
    return f"{value(row)}{f' ({ends})' if ends else ''}, n = {row['n']}"


def _compare(first: str, labels: Labels, sources: Mapping[str, Mapping[str, Row]]) -> Table:
    """Create a table of the same values from several sources, side by side."""
    rows = (
        (label, *(_value_with_interval(values.get(name)) for values in sources.values()))
        for name, label in labels.items()
    )
    return Table(tuple(map(Heading, (first, *sources))), tuple(rows))


def _rates(by: str, content: Mapping[str, Any], reference: Mapping[str, Any] | None) -> Table:
    rates = _by_level(content, by)
    sources = {THESE_SCANS: rates}
    if reference is not None:
        sources[PAINTED] = _by_level(reference, by)
        if by in OF_EXPERTS:
            sources[DRAWN] = _by_level(reference, by, "ExpertSensitivity")
    labels = {level: level.replace("_", " ") for level in rates}
    return _compare(by.replace(", ", " and "), labels, sources)


def _by_level(content: Mapping[str, Any], by: str, part: str = "Sensitivity") -> dict[str, Row]:
    return {str(row["level"]): row for row in content.get(part, ()) if row["by"] == by}


def _by_size(content: Mapping[str, Any]) -> dict[str, Row]:
    return {str(row["size"]): row for row in content["Volumes"]}


def _visits(visits: Sequence[VisitCheck]) -> Table:
    rows = [visit_row(visit) for visit in visits]
    numbers = {name for name in VISITS if any(isinstance(row[name], int | float) for row in rows)}
    headings = tuple(
        Heading(label, digits=3 if name in numbers else None) for name, label in VISITS.items()
    )
    return Table(headings, tuple(tuple(_cell(row[name]) for name in VISITS) for row in rows))


def _cell(content: object) -> str:
    if isinstance(content, float):
        return decimal(content, 3)
    return MISSING if content is None or content == "" else str(content)


def _agreement(load: Mapping[str, Row], visits: Sequence[VisitCheck]) -> tuple[Plot, ...]:
    """Create the Bland-Altman plot of scans and pseudo-rescans; empty without rescans."""
    marks = [
        Mark(
            (again + visit.load_ml) / 2,
            again - visit.load_ml,
            f"{visit.key}: scan {decimal(visit.load_ml, 2)} mL, "
            f"pseudo-rescan {decimal(again, 2)} mL",
        )
        for visit in visits
        for again in visit.loads[1:]
    ]
    if not marks:
        return ()
    values = {name: load[statistic]["value"] for name, statistic in LINES.items()}
    texts = {name: decimal(number, 3) for name, number in values.items()}
    return (
        bland_altman(
            "Bland-Altman plot",
            f"Lesion load of {len(marks)} pseudo-rescans minus that of their scan, with the mean "
            "difference and the limits of agreement where they are known.",
            ("mean of both loads (mL)", "pseudo-rescan − scan (mL)"),
            marks,
            {
                name: (float(values[name]), f"{text} mL")
                for name, text in texts.items()
                if text != MISSING
            },
        ),
    )
