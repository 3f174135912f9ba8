from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_msseg.evaluation.comparison import (
    BETTER,
    NOT_BETTER,
    UNDETERMINED,
    Pair,
    assess_improvement,
    comparison_rows,
    comparison_table,
    in_initial_training_data,
)
from bids_msseg.evaluation.scoring import Score


def _score(visit: str, dice: float) -> Score:
    return Score(visit, "A", "before", dice, 0.5, 0.25, 0.125, 0.5, 0.5, 0.5, 1, 1.0, 1.0)


def _pair(visit: str, before: float, after: float | None, seen: str = "no") -> Pair:
    return Pair(_score(visit, before), None if after is None else _score(visit, after), seen)


def _pairs(*dice: tuple[float, float]) -> list[Pair]:
    return [_pair(f"sub-{n}", *one) for n, one in enumerate(dice)]


def test_improvement_without_held_out_patients_is_undetermined() -> None:
    improvement = assess_improvement([_pair("sub-1", 0.5, None)])
    assert str(improvement) == "undetermined: no held-out patient"


def test_few_patients_are_better_only_if_all_improve() -> None:
    improvement = assess_improvement(_pairs((0.5, 0.625), (0.25, 0.5)))
    assert str(improvement) == (
        "better: mean held-out Dice changed by +0.188 (n = 2, too few for an interval); "
        "it rose in 2 of 2 patients"
    )
    assert assess_improvement(_pairs((0.5, 0.9), (0.5, 0.4))).word == NOT_BETTER
    assert assess_improvement(_pairs((0.5, 0.5), (0.5, 0.5))).word == NOT_BETTER


def test_interval_decides_improvement_from_five_patients() -> None:
    improvement = assess_improvement(_pairs(*[(0.5, 0.625)] * 5))
    assert improvement.word == BETTER
    assert "95 % interval +0.125 to +0.125" in improvement.reason
    # the mean rises by 0.06, but because of one patient only
    mixed = assess_improvement(_pairs((0.4, 0.9), *[(0.5, 0.45)] * 4))
    assert mixed.gain.mean > 0
    assert mixed.word == NOT_BETTER


def test_patient_seen_in_training_is_excluded_with_all_visits() -> None:
    pairs = [
        _pair("sub-1_ses-1", 0.5, 0.75, "yes"),
        _pair("sub-1_ses-2", 0.5, 0.75),
        _pair("sub-2", 0.5, 0.25),
        _pair("sub-3", 0.5, 0.25),
    ]
    improvement = assess_improvement(pairs)
    assert improvement.word == NOT_BETTER
    assert improvement.gain.n_patients == 2
    assert "| **mean, n = 2** |  |  | 0.500 | 0.250 |" in comparison_table(pairs)
    seen = assess_improvement([_pair("sub-1", 0.5, 0.75, "yes"), _pair("sub-2", 0.5, 0.75, "yes")])
    assert seen.word == UNDETERMINED
    assert seen.gain.n_patients == 0


def test_improvement_of_one_held_out_patient_is_undetermined() -> None:
    pairs = [_pair("sub-1", 0.5, 0.9), _pair("sub-2", 0.5, 0.9, "yes")]
    assert assess_improvement(pairs).word == UNDETERMINED


def test_visits_of_one_patient_count_as_one_patient() -> None:
    improvement = assess_improvement([_pair(f"sub-1_ses-{n}", 0.5, 0.75) for n in range(6)])
    assert improvement.word == UNDETERMINED


def test_unknown_training_data_is_named_in_improvement() -> None:
    pairs = [_pair("sub-1", 0.5, 0.75, "not known"), _pair("sub-2", 0.5, 0.75)]
    improvement = assess_improvement(pairs)
    assert improvement.word == BETTER
    assert improvement.reason.endswith("were trained on these patients")


def test_undefined_dice_does_not_count() -> None:
    improvement = assess_improvement(_pairs((0.5, 0.75), (math.nan, 0.5), (0.5, 0.625)))
    assert improvement.gain.n_patients == 2
    assert improvement.gain.mean == 0.1875


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8))
def test_improvement_is_not_better_if_mean_dice_falls(dice: list[tuple[float, float]]) -> None:
    improvement = assess_improvement(_pairs(*dice))
    if improvement.word == BETTER:
        assert sum(after - before for before, after in dice) > 0
        assert (
            assess_improvement(_pairs(*[(after, before) for before, after in dice])).word
            == NOT_BETTER
        )


def test_comparison_table_has_before_and_after_columns() -> None:
    lines = comparison_table([*_pairs((0.5, 0.75)), _pair("sub-9", 0.25, None)]).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[0].startswith("| visit | site | seen before | Dice before | Dice after | PPV")
    assert lines[2] == (
        "| sub-0 | A | no | 0.500 | 0.750 | 0.500 | 0.500 | 0.250 | 0.250 | 0.125 | 0.125 |"
    )
    assert lines[3] == (
        "| sub-9 | A | no | 0.250 | n/a | 0.500 | n/a | 0.250 | n/a | 0.125 | n/a |"
    )


def test_comparison_rows_match_columns() -> None:
    columns, rows = comparison_rows(_pairs((0.5, 0.75)))
    assert columns[:3] == ("visit", "site", "in_initial_training_data")
    assert columns[3:5] == ("dice_before", "dice_after")
    assert set(rows[0]) == set(columns)
    assert (rows[0]["dice_before"], rows[0]["dice_after"]) == (0.5, 0.75)


@pytest.mark.parametrize(
    ("notes", "answer"),
    [
        ({}, "not known"),
        ({"visits": 13}, "not known"),
        ({"visits": ["sub-1_ses-1"]}, "yes"),
        ({"visits": ["sub-2"]}, "no"),
        # a later session of that patient, or another site's sub-1
        ({"visits": ["sub-1"], "images": {"sub-1": "other"}}, "not known"),
        ({"visits": ["sub-1_ses-1"], "images": {"sub-1_ses-1": "other"}}, "not known"),
        ({"visits": ["sub-2"], "images": {"sub-2": "other"}}, "no"),
        ({"visits": ["sub-7"], "images": {"sub-7": "mine"}}, "yes"),
        # the digest of one image is missing: only names are compared
        ({"visits": ["sub-1", "sub-2"], "images": {"sub-2": "other"}}, "yes"),
        ({"visits": ["sub-2"], "init": {"visits": ["sub-1"]}}, "yes"),
        ({"visits": ["sub-2"], "init": {"visits": 13}}, "not known"),
        ({"visits": ["sub-2"], "init": {"visits": ["sub-3"]}}, "no"),
    ],
)
def test_in_initial_training_data_follows_training_notes(notes: dict, answer: str) -> None:
    assert in_initial_training_data(notes, "sub-1", "mine") == answer
