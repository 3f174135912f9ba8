"""Findings about visits as Markdown: means per site with n and an interval, then every visit."""

from __future__ import annotations

import math
import re
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
    """Results of one row, with what is needed to read them.

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


def render(section: Section, command: str = "") -> str:
    """Write a section as Markdown.

    Parameters
    ----------
    section : Section
    command : str, optional
        The command that prints it.

    Returns
    -------
    str
        Ends with a line break.
    """
    titles = tuple(column.title for column in section.columns)
    parts = [f"## {section.title}", section.note, f"`{command}`" if command else ""]
    if section.findings and section.averaged:
        parts.append(_table(("site", "method", *titles), _site_rows(section)))
    if section.findings:
        parts.append(_table(("visit", "site", "method", *titles), _visit_rows(section)))
    return "\n\n".join(part for part in parts if part) + "\n"


def merge(page: str, section: str) -> str:
    r"""Replace the section of a page that has the same heading, or append it.

    Examples
    --------
    >>> merge("# Page\n\n## A\n\n1\n\n## B\n\n2\n", "## A\n\n3\n")
    '# Page\n\n## A\n\n3\n\n## B\n\n2\n'
    """
    parts = [part.rstrip("\n") for part in re.split(r"^(?=## )", page, flags=re.MULTILINE)]
    heading, new = section.partition("\n")[0], section.rstrip("\n")
    headings = [part.partition("\n")[0] for part in parts]
    if heading in headings:
        parts[headings.index(heading)] = new
    else:
        parts.append(new)
    return "\n\n".join(filter(None, parts)) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = (head, ["---"] * len(head), *rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _visit_rows(section: Section) -> list[tuple[str, ...]]:
    """Return one row per visit and method, ordered by site, visit and method."""
    methods = _methods(section.findings)
    order = sorted(
        section.findings,
        key=lambda finding: (finding.site, finding.visit, methods.index(finding.method)),
    )
    return [
        (
            finding.visit,
            finding.site,
            finding.method,
            *(_cell(finding, column) for column in section.columns),
        )
        for finding in order
    ]


def _cell(finding: Finding, column: Column) -> str:
    return _number(finding.values.get(column.key, math.nan), column.digits)


def _number(value: float, digits: int) -> str:
    return NOT_DEFINED if math.isnan(value) else f"{value:.{digits}f}"


def _site_rows(section: Section) -> list[tuple[str, ...]]:
    """Return one row per site and method: means, with intervals if patients suffice."""
    rows = []
    for site in sorted({finding.site for finding in section.findings}):
        for method in _methods(section.findings):
            members = [
                finding
                for finding in section.findings
                if (finding.site, finding.method) == (site, method)
            ]
            if members:
                rows.append(_mean_row(section, site, method, members))
    return rows


def _mean_row(
    section: Section, site: str, method: str, members: Sequence[Finding]
) -> tuple[str, ...]:
    names = sorted({finding.participant for finding in members})
    n_patients = len(names)
    visits = "" if n_patients == len(members) else f", {len(members)} visits"
    cells = []
    for column in section.columns:
        estimate = estimate_mean([_of_participant(name, column, members) for name in names], names)
        fewer = f" (n = {estimate.n_patients})" if 0 < estimate.n_patients < n_patients else ""
        cells.append(show_estimate(estimate, column.digits) + fewer)
    return (f"{site}, n = {n_patients}{visits}", method, *cells)


def _of_participant(name: str, column: Column, members: Sequence[Finding]) -> float:
    """Average a figure over the visits of a participant that have it."""
    values = [
        finding.values.get(column.key, math.nan)
        for finding in members
        if finding.participant == name
    ]
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def show_estimate(estimate: MeanEstimate, digits: int = 3) -> str:
    """Write a mean, and its interval where it has one.

    Examples
    --------
    >>> show_estimate(estimate_mean([0.5] * 5), 2), show_estimate(estimate_mean([0.5] * 4), 2)
    ('0.50 [0.50, 0.50]', '0.50')
    """
    mean = _number(estimate.mean, digits)
    if not estimate.has_interval:
        return mean
    return f"{mean} [{_number(estimate.low, digits)}, {_number(estimate.high, digits)}]"


def _methods(findings: Sequence[Finding]) -> list[str]:
    return list(dict.fromkeys(finding.method for finding in findings))
