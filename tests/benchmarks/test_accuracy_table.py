from __future__ import annotations

import math

import pytest
from accuracy_table import Column, Finding, Section, merge, render, show_estimate

from bids_msseg.lesions.comparison.bootstrap import estimate_mean

COLUMNS = (Column("dice", "Dice", 2), Column("count", "components", 0))


def _finding(visit: str, site: str = "A", method: str = "cascade", **values: float) -> Finding:
    return Finding(visit, visit.partition("_")[0], site, method, values)


def _rows(section: Section) -> list[list[str]]:
    """Return the lines of all tables: means first, with their header and separator."""
    lines = [line for line in render(section).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_render_of_small_table() -> None:
    section = Section(
        "Title",
        "Note.",
        COLUMNS,
        (
            _finding("sub-2", "B", dice=0.5, count=3),
            _finding("sub-1", "A", dice=0.25, count=1),
            _finding("sub-3", "A", dice=0.75, count=2),
        ),
    )
    assert render(section, "command --rows x") == (
        "## Title\n"
        "\n"
        "Note.\n"
        "\n"
        "`command --rows x`\n"
        "\n"
        "| site | method | Dice | components |\n"
        "| --- | --- | --- | --- |\n"
        "| A, n = 2 | cascade | 0.50 | 2 |\n"
        "| B, n = 1 | cascade | 0.50 | 3 |\n"
        "\n"
        "| visit | site | method | Dice | components |\n"
        "| --- | --- | --- | --- | --- |\n"
        "| sub-1 | A | cascade | 0.25 | 1 |\n"
        "| sub-3 | A | cascade | 0.75 | 2 |\n"
        "| sub-2 | B | cascade | 0.50 | 3 |\n"
    )


def test_merge_replaces_section_of_same_heading_and_appends_others() -> None:
    page = "# Page\n\nText.\n\n## A\n\n| 1 |\n\n## B\n\n| 2 |\n"
    assert merge(page, "## A\n\n| 3 |\n") == page.replace("1", "3")
    assert merge(page, "## C\n\n| 3 |\n") == f"{page}\n## C\n\n| 3 |\n"
    assert merge(merge(page, "## B\n\n| 2 |\n"), "## A\n\n| 1 |\n") == page


def test_mean_has_interval_from_five_patients() -> None:
    five = tuple(_finding(f"sub-{n}", dice=n / 10) for n in range(5))
    section = Section("T", "", COLUMNS, five)
    expected = estimate_mean([n / 10 for n in range(5)])
    assert _rows(section)[2][0] == "A, n = 5"
    assert _rows(section)[2][2] == f"0.20 [{expected.low:.2f}, {expected.high:.2f}]"
    assert expected.low < 0.2 < expected.high
    assert _rows(Section("T", "", COLUMNS, five[:4]))[2][2] == "0.15"


def test_mean_row_counts_patients_and_visits() -> None:
    visits = tuple(_finding(f"sub-1_ses-{n}", dice=0.5) for n in range(6))
    row = _rows(Section("T", "", COLUMNS, visits))[2]
    assert row[0] == "A, n = 1, 6 visits"
    assert row[2] == "0.50"


def test_a_patient_with_more_visits_counts_once() -> None:
    visits = tuple(_finding(f"sub-1_ses-{n}", dice=0.25, count=1) for n in range(3))
    row = _rows(Section("T", "", COLUMNS, (*visits, _finding("sub-2", dice=0.75, count=5))))[2]
    assert row[0] == "A, n = 2, 4 visits"
    assert row[2:] == ["0.50", "3"]


def test_undefined_values_are_shown_and_mean_gives_count() -> None:
    findings = (
        _finding("sub-1", dice=math.nan, count=1),
        _finding("sub-2", dice=0.5, count=1),
        _finding("sub-3", count=1),
    )
    rows = _rows(Section("T", "", COLUMNS, findings))
    assert rows[2][2:] == ["0.50 (n = 1)", "1"]
    assert [row[3] for row in rows[5:]] == ["n/a", "0.50", "n/a"]
    nobody = _rows(Section("T", "", COLUMNS, findings[:1]))
    assert nobody[2][2] == "n/a"


def test_methods_keep_order_and_have_separate_means() -> None:
    findings = (
        _finding("sub-1", method="net", dice=0.1),
        _finding("sub-1", method="cascade", dice=0.3),
        _finding("sub-0", method="cascade", dice=0.5),
    )
    rows = _rows(Section("T", "", COLUMNS, findings))
    assert [row[:3] for row in rows[2:4]] == [
        ["A, n = 1", "net", "0.10"],
        ["A, n = 2", "cascade", "0.40"],
    ]
    assert [(row[0], row[2], row[3]) for row in rows[6:]] == [
        ("sub-0", "cascade", "0.50"),
        ("sub-1", "net", "0.10"),
        ("sub-1", "cascade", "0.30"),
    ]


def test_a_section_may_have_no_means_or_no_table() -> None:
    finding = (_finding("sub-1", dice=0.1),)
    assert len(_rows(Section("T", "", COLUMNS, finding, averaged=False))) == 3
    assert render(Section("T", "Nothing was chosen.")) == "## T\n\nNothing was chosen.\n"


@pytest.mark.parametrize(("digits", "text"), [(0, "1"), (2, "0.50")])
def test_show_estimate_rounds_to_digits(digits: int, text: str) -> None:
    value = 0.5 if digits else 1.0
    assert show_estimate(estimate_mean([value]), digits) == text
