"""Findings about visits as Markdown: every visit, then each site with n and an interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bids_msseg.lesions.comparison.bootstrap import MeanEstimate, estimate_mean

NOT_DEFINED = "n/a"


@dataclass(frozen=True, slots=True)
class Column:
    """A figure in a table.

    Attributes
    ----------
    key : str
        Its name in :attr:`Finding.values`.
    title : str
    digits : int
        Decimals.
    """

    key: str
    title: str
    digits: int = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """What was measured on one visit in one way.

    Attributes
    ----------
    visit, participant, site, method : str
    values : mapping of str to float
        NaN or absent where a figure is not defined.
    """

    visit: str
    participant: str
    site: str
    method: str
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Section:
    """One table with what has to be known to read it.

    Attributes
    ----------
    title, note : str
    columns : tuple of Column
    findings : tuple of Finding
        May be empty; then only title and note are shown.
    averaged : bool
        Whether means by site make sense.
    """

    title: str
    note: str
    columns: tuple[Column, ...] = ()
    findings: tuple[Finding, ...] = ()
    averaged: bool = True


def render(section: Section) -> str:
    """Write a section as Markdown.

    Parameters
    ----------
    section : Section

    Returns
    -------
    str
        Ends with a line break.
    """
    parts = [f"## {section.title}", section.note]
    if section.findings:
        head = ("visit", "site", "method", *(column.title for column in section.columns))
        rows = [head, tuple("---" for _ in head), *_visit_rows(section)]
        rows += _site_rows(section) if section.averaged else []
        parts.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
    return "\n\n".join(part for part in parts if part) + "\n"


def _visit_rows(section: Section) -> list[tuple[str, ...]]:
    """Return one row per visit and method, ordered by site, visit and method."""
    methods = _methods(section.findings)
    order = sorted(
        section.findings, key=lambda one: (one.site, one.visit, methods.index(one.method))
    )
    return [
        (one.visit, one.site, one.method, *(_cell(one, column) for column in section.columns))
        for one in order
    ]


def _cell(finding: Finding, column: Column) -> str:
    return _number(finding.values.get(column.key, math.nan), column.digits)


def _number(value: float, digits: int) -> str:
    return NOT_DEFINED if math.isnan(value) else f"{value:.{digits}f}"


def _site_rows(section: Section) -> list[tuple[str, ...]]:
    """Return one row per site and method: means, with intervals if patients suffice."""
    rows = []
    for site in sorted({one.site for one in section.findings}):
        for method in _methods(section.findings):
            members = [o for o in section.findings if (o.site, o.method) == (site, method)]
            if members:
                rows.append(_mean_row(section, site, method, members))
    return rows


def _mean_row(
    section: Section, site: str, method: str, members: Sequence[Finding]
) -> tuple[str, ...]:
    names = sorted({one.participant for one in members})
    people = len(names)
    visits = "" if people == len(members) else f", {len(members)} visits"
    cells = []
    for column in section.columns:
        found = estimate_mean([_of_participant(name, column, members) for name in names], names)
        few = f" (n = {found.n_patients})" if 0 < found.n_patients < people else ""
        cells.append(show_estimate(found, column.digits) + few)
    return (f"**mean, n = {people}{visits}**", site, method, *cells)


def _of_participant(name: str, column: Column, members: Sequence[Finding]) -> float:
    """Average a figure over the visits of a participant that have it."""
    values = [one.values.get(column.key, math.nan) for one in members if one.participant == name]
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def show_estimate(found: MeanEstimate, digits: int = 3) -> str:
    """Write a mean, and its interval where it has one.

    Examples
    --------
    >>> show_estimate(estimate_mean([0.5] * 5), 2), show_estimate(estimate_mean([0.5] * 4), 2)
    ('0.50 [0.50, 0.50]', '0.50')
    """
    mean = _number(found.mean, digits)
    if not found.has_interval:
        return mean
    return f"{mean} [{_number(found.low, digits)}, {_number(found.high, digits)}]"


def _methods(findings: Sequence[Finding]) -> list[str]:
    return list(dict.fromkeys(one.method for one in findings))
