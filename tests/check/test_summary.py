"""Rates, limits of agreement and bounds, on small examples."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from bids_msseg.check.summary import (
    BOOTSTRAP,
    LOWER,
    NEITHER,
    UNKNOWN,
    UPPER,
    WILSON,
    bound,
    load_agreement,
    rate,
    sensitivity,
    summarise,
    wilson,
)

Make = Callable[..., Any]


@pytest.mark.parametrize(
    ("found", "n", "expected"),
    [(8, 10, (0.4902, 0.9433)), (0, 10, (0.0, 0.2775)), (10, 10, (0.7225, 1.0))],
)
def test_wilsons_interval(found: int, n: int, expected: tuple[float, float]) -> None:
    assert wilson(found, n) == pytest.approx(expected, abs=5e-5)


def test_rate_without_lesions_is_undefined() -> None:
    assert all(math.isnan(end) for end in wilson(0, 0))
    nothing = rate([], [])
    assert (nothing.n, nothing.found) == (0, 0)
    assert math.isnan(nothing.share)


@pytest.mark.parametrize(
    ("hits", "patients", "kind"),
    [
        ([True, False] * 4, "aabbccdd", WILSON),
        ([True, False] * 5, "aabbccddee", BOOTSTRAP),
        ([True, False, True, True, False], "abcde", BOOTSTRAP),
        # all bootstrap samples have the same rate
        ([True] * 10, "aabbccddee", WILSON),
        ([False] * 5, "abcde", WILSON),
    ],
)
def test_rate_uses_bootstrap_or_wilson_interval(
    hits: list[bool], patients: str, kind: str
) -> None:
    found = rate(hits, list(patients))
    assert found.interval == kind
    assert found.share == pytest.approx(sum(hits) / len(hits))
    assert found.low <= found.share <= found.high
    if kind == WILSON:
        assert (found.low, found.high) == wilson(sum(hits), len(hits))


def test_identical_patients_give_zero_width_interval() -> None:
    """Half of the lesions of each of five patients: all bootstrap samples are equal."""
    found = rate([True, False] * 5, list("aabbccddee"))
    assert (found.low, found.high) == (0.5, 0.5)


def test_lesions_are_counted_by_size_region_and_strength(make_lesion: Make) -> None:
    rows = [
        ("01", make_lesion(5, found=True, region="periventricular", strength=0.4)),
        ("01", make_lesion(5, found=False, region="periventricular", strength=1.0)),
        ("02", make_lesion(60, found=True, region="infratentorial", strength=0.4)),
        ("02", make_lesion(9, found=True, region=None, strength=0.7)),
    ]
    counts = {(row["by"], row["level"]): (row["found"], row["n"]) for row in sensitivity(rows)}
    assert counts["all", "all"] == (3, 4)
    sizes = [counts["size", level] for level in ("3-10", "10-50", "50-200", ">200")]
    assert sizes == [(2, 3), (0, 0), (1, 1), (0, 0)]
    assert counts["region", "periventricular"] == (1, 2)
    assert counts["region", "juxtacortical"] == (0, 0)
    assert counts["strength", "0.4"] == (2, 2)
    # crossed classes are listed only if they contain a lesion
    crossed = {level: n for (by, level), n in counts.items() if by == "size, region"}
    assert crossed == {"3-10, periventricular": (1, 2), "50-200, infratentorial": (1, 1)}
    assert counts["size, strength", "3-10, 1"] == (0, 1)


def test_lesions_without_a_strength_are_counted_by_size(make_lesion: Make) -> None:
    drawn = {name: make_lesion(5, found=True)[name] for name in ("size", "region", "found")}
    counts = {(row["by"], row["level"]): row["n"] for row in sensitivity([("01", drawn)])}
    assert counts["size", "3-10"] == counts["region", "deep_white_matter"] == 1
    assert {n for (by, _), n in counts.items() if "strength" in by} == {0}


def test_load_agreement_of_small_example(make_check: Make) -> None:
    """Differences 0.2, 0 and -0.1 mL."""
    loads = (("01", 1.0, 1.2), ("02", 3.0, 3.0), ("03", 2.0, 1.9))
    found = load_agreement([make_check(name, load, (again,)) for name, load, again in loads])
    expected = {
        "bias_ml": 0.1 / 3,
        "lower_limit_ml": -0.26606,
        "upper_limit_ml": 0.33273,
        # sums of squares 0.02, 0 and 0.005, one degree of freedom each
        "smallest_change_ml": 1.96 * math.sqrt(2 * 0.025 / 3),
        "dice": 0.8,
    }
    assert {name: row["value"] for name, row in found.items()} == pytest.approx(expected, abs=1e-5)
    assert {(row["n"], row["n_patients"]) for row in found.values()} == {(3, 3)}
    # no interval with fewer than five patients
    assert all(math.isnan(row["low"]) for row in found.values())


def test_single_visit_gives_smallest_change_without_limits(make_check: Make) -> None:
    """Three loads, 1, 2 and 3 mL, have a variance of 1."""
    found = load_agreement([make_check("01", 2.0, (1.0, 3.0))])
    assert found["smallest_change_ml"]["value"] == pytest.approx(1.96 * math.sqrt(2))
    assert math.isnan(found["bias_ml"]["value"])
    assert (found["smallest_change_ml"]["n"], found["bias_ml"]["n"]) == (1, 1)


def test_rescans_of_one_visit_are_not_treated_as_independent(make_check: Make) -> None:
    """Rescans of a visit agree, and differ from the scan by -0.2, 0 and 0.2 mL.

    The means of differences have a variance of 0.04, and there is none within visits. Six
    independent differences would have 0.032.
    """
    visits = [make_check(str(n), 2.0, (2.0 + by,) * 2) for n, by in enumerate((-0.2, 0, 0.2))]
    found = load_agreement(visits)
    limits = [found[f"{end}_limit_ml"]["value"] for end in ("lower", "upper")]
    assert limits == pytest.approx([-0.392, 0.392])
    assert found["bias_ml"]["value"] == pytest.approx(0)
    assert (found["upper_limit_ml"]["n"], found["dice"]["n"]) == (3, 6)


def test_load_agreement_without_rescans_is_nan(make_check: Make) -> None:
    found = load_agreement([make_check(rescans=())])
    assert all(math.isnan(row["value"]) for row in found.values())


def test_load_agreement_of_five_patients_has_intervals(make_check: Make) -> None:
    visits = [make_check(str(number), 2.0, (2.0 + number / 10,)) for number in range(5)]
    for row in summarise(visits)["Load"].values():
        assert row["low"] <= row["value"] <= row["high"]


def test_summary_of_small_example(make_check: Make) -> None:
    """Each visit has a small lesion that was missed and a large one found too large."""
    found = summarise([make_check("01"), make_check("01", session="2"), make_check("02")])
    assert (found["Participants"], found["Visits"]) == (2, 3)
    assert found["FalsePositives"]["n_false"]["value"] == 1
    assert found["FalsePositives"]["false_ml"]["value"] == pytest.approx(0.004)
    volumes = {row["size"]: row for row in found["Volumes"]}
    # predicted with twice the volume
    assert (volumes[">200"]["value"], volumes[">200"]["n"]) == (1.0, 3)
    assert volumes["3-10"]["n"] == 0
    assert (volumes["all"]["n"], volumes["all"]["n_patients"]) == (3, 2)


def rows(*shares: tuple[float, float], name: str = "size") -> list[dict[str, Any]]:
    levels = ("3-10", "10-50", "50-200", ">200")
    return [
        {"by": name, "level": level, "n": 20, "low": low, "high": high}
        for level, (low, high) in zip(levels, shares, strict=False)
    ]


@pytest.mark.parametrize(
    ("painted", "drawn", "expected"),
    [
        ([(0.6, 0.7), (0.8, 0.9)], [(0.2, 0.4), (0.5, 0.7)], UPPER),
        ([(0.1, 0.2), (0.3, 0.4)], [(0.3, 0.4), (0.5, 0.7)], LOWER),
        # an interval that overlaps is no evidence
        ([(0.6, 0.7), (0.8, 0.9)], [(0.2, 0.4), (0.5, 0.8)], NEITHER),
        ([(0.6, 0.7), (0.1, 0.2)], [(0.2, 0.4), (0.5, 0.8)], NEITHER),
        # only size classes in both tables count
        ([(0.6, 0.7), (0.1, 0.2)], [(0.2, 0.4)], UPPER),
        ([], [(0.2, 0.4)], UNKNOWN),
    ],
)
def test_bound_needs_evidence_in_every_size_class(
    painted: list[tuple[float, float]], drawn: list[tuple[float, float]], expected: str
) -> None:
    reference = {"Sensitivity": rows(*painted), "ExpertSensitivity": rows(*drawn)}
    assert bound(reference) == expected


@pytest.mark.parametrize("reference", [None, {}, {"Sensitivity": rows((0.6, 0.7))}])
def test_bound_without_expert_lesions_is_unknown(reference: dict[str, Any] | None) -> None:
    assert bound(reference) == UNKNOWN


def test_size_classes_without_lesions_are_ignored_for_bound() -> None:
    empty = [{"by": "size", "level": "3-10", "n": 0, "low": None, "high": None}]
    both = {"Sensitivity": empty, "ExpertSensitivity": rows((0.2, 0.4))}
    assert bound(both) == UNKNOWN
