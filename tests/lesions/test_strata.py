"""Detection by class of lesion."""

from __future__ import annotations

import math

import pytest

from bids_msseg.lesions.comparison.strata import SIZE_LEVELS, AssessedLesion, size_level, stratify


@pytest.mark.parametrize(
    ("volume", "level"),
    [
        (3, "<10"),
        (9.999, "<10"),
        (10, "10-100"),
        (100, "100-1000"),
        (1000, ">1000"),
        (1e6, ">1000"),
    ],
)
def test_volume_on_edge_belongs_to_larger_class(volume: float, level: str) -> None:
    assert size_level(volume) == level


def test_true_and_predicted_lesions_are_counted_per_class() -> None:
    lesions = [
        AssessedLesion("a", True, "<10", False),
        AssessedLesion("a", True, "10-100", True),
        AssessedLesion("b", True, "10-100", False),
        AssessedLesion("b", False, "10-100", True),
        AssessedLesion("b", False, ">1000", False),
        AssessedLesion("b", False, "elsewhere", True),
    ]
    small, middle, none, large = stratify(lesions, SIZE_LEVELS)
    assert (small.n_manual, small.n_found, small.n_auto, small.f1) == (1, 0, 0, 0.0)
    assert (middle.n_manual, middle.n_found, middle.n_auto, middle.n_true) == (2, 1, 1, 1)
    assert middle.f1 == pytest.approx(2 / 3)
    assert (none.n_manual, none.n_auto) == (0, 0)
    assert math.isnan(none.sensitivity.mean)
    assert math.isnan(none.f1)
    assert (large.ppv.mean, large.f1) == (0.0, 0.0)


def test_interval_needs_five_patients_with_lesions_of_class() -> None:
    lesions = [AssessedLesion(name, True, "<10", name < "c") for name in "abcd"]
    assert not stratify(lesions, ["<10"])[0].sensitivity.has_interval
    lesions += [AssessedLesion("e", True, "<10", True)] * 3
    found = stratify(lesions, ["<10"])[0].sensitivity
    assert found.mean == pytest.approx(5 / 7)
    assert 0 <= found.low < found.mean < found.high <= 1
