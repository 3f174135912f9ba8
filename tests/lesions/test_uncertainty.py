from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_msseg.lesions.confidence.fit import (
    LesionCase,
    LoadCase,
    check_confidence,
    check_load,
    coverage,
    fit_confidence,
    fit_load,
    lesion_cases,
    rank_auc,
)
from bids_msseg.lesions.confidence.uncertainty import (
    SWEEP,
    ConfidenceModel,
    LoadInterval,
    LoadModel,
    sweep_volumes,
)


def _loads(count: int = 12, noise: float = 0.0, seed: int = 0) -> list[LoadCase]:
    """Truth is about half of the volume above 0.6; volumes above other cuts are random."""
    rng = np.random.default_rng(seed)
    cases = []
    for number in range(count):
        useful = float(np.exp(rng.normal(2, 1)))
        sweep = [float(np.exp(rng.normal(2, 1))) for _ in SWEEP]
        sweep[SWEEP.index(0.6)] = useful
        truth = (useful + 0.1) / 2 * math.exp(rng.normal(0, noise)) - 0.1
        cases.append(LoadCase(str(number), "AB"[number % 2], tuple(sweep), truth))
    return cases


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=60))
def test_sweep_volumes_count_voxels_at_or_above_each_cut(values: list[float]) -> None:
    data = np.array(values, np.float32).reshape(-1, 1, 1)
    wanted = [2.0 * np.count_nonzero(data >= np.float32(cut)) / 1000 for cut in SWEEP]
    assert sweep_volumes(data, 2.0) == pytest.approx(wanted)


def test_fit_load_finds_most_predictive_cut() -> None:
    model = fit_load(_loads())
    assert model is not None
    assert (model.cut, model.patients) == (0.6, 12)
    assert model.slope == pytest.approx(1)
    assert model.intercept == pytest.approx(-math.log(2))
    assert model.half_width == pytest.approx(0, abs=1e-9)


@pytest.mark.slow
def test_load_interval_covers_ninety_percent() -> None:
    cases = _loads(200, noise=0.5, seed=3)
    model = fit_load(cases)
    assert model is not None
    # Student's 95th percentile for 198 degrees of freedom times the spread
    assert model.half_width == pytest.approx(1.653 * 0.5, rel=0.15)
    inside, count = coverage(check_load(cases))["all"]
    assert count == 200
    assert 0.85 <= inside / count <= 0.95


def test_load_interval_is_fitted_without_held_out_patient() -> None:
    cases = _loads(10, noise=0.3)
    before = {one.case.participant: one.interval for one in check_load(cases)}
    strange = LoadCase("0", "A", cases[0].sweep_ml, cases[0].truth_ml * 50)
    after = {one.case.participant: one.interval for one in check_load([strange, *cases[1:]])}
    assert after["0"] == before["0"]
    assert after["1"] != before["1"]


def test_visits_of_one_participant_are_left_out_together() -> None:
    cases = _loads(10, noise=0.3)
    twin = LoadCase("0", "A", cases[0].sweep_ml, cases[0].truth_ml * 50)
    alone = check_load(cases)[0]
    both = check_load([*cases, twin])
    assert len(both) == 11
    assert both[0].interval == both[10].interval == alone.interval


def test_few_patients_give_no_model() -> None:
    assert fit_load(_loads(7)) is None
    assert check_load(_loads(8)) == ()
    assert coverage(()) == {}


@given(st.floats(0, 500), st.floats(0, 2), st.floats(-2, 2), st.floats(0, 3))
def test_load_interval_is_ordered_and_not_negative(
    volume: float, slope: float, intercept: float, half: float
) -> None:
    model = LoadModel(0.5, slope, intercept, half, 9)
    found = model.interval([volume] * len(SWEEP))
    assert 0 <= found.low_ml <= found.expected_ml <= found.high_ml
    assert found.holds(found.expected_ml)


def test_coverage_is_counted_by_site() -> None:
    checked = check_load(_loads(10, noise=0.3))
    counts = coverage(checked)
    assert [counts[site][1] for site in ("A", "B", "all")] == [5, 5, 10]
    assert counts["A"][0] + counts["B"][0] == counts["all"][0]


def test_lesion_cases_record_overlap_with_expert_mask() -> None:
    mask = np.zeros((9, 3, 3), bool)
    mask[:2], mask[5:] = True, True
    probability = np.where(mask, 0.6, 0.0)
    probability[5:] = 0.8
    truth = np.zeros(mask.shape, bool)
    truth[8] = True
    cases = lesion_cases(mask, probability, truth, participant="1", site="A")
    assert sorted((round(one.p, 6), one.found) for one in cases) == [(0.6, False), (0.8, True)]
    assert lesion_cases(mask & False, probability, truth, participant="1", site="A") == []


def _lesions(seed: int = 0) -> list[LesionCase]:
    rng = np.random.default_rng(seed)
    return [
        LesionCase(str(number % 10), "A", float(p), bool(rng.random() < p))
        for number, p in enumerate(rng.uniform(0.5, 1, 3000))
    ]


def test_confidence_is_the_share_of_true_lesions() -> None:
    model = fit_confidence(_lesions())
    assert model is not None
    assert (model.lesions, model.patients) == (3000, 10)
    for p in (0.6, 0.75, 0.9):
        assert model.confidence(p) == pytest.approx(p, abs=0.05)


def test_inverse_relation_gives_zero_slope_and_mean() -> None:
    rng = np.random.default_rng(1)
    cases = [
        LesionCase(str(i % 9), "A", float(p), bool(p < 0.7))
        for i, p in enumerate(rng.uniform(0.5, 1, 500))
    ]
    model = fit_confidence(cases)
    assert model is not None
    assert model.slope == 0  # confidence never decreases with the probability
    share = np.mean([case.found for case in cases])
    assert model.confidence(0.9) == pytest.approx(share, abs=0.01)


def test_insufficient_data_give_no_confidence_model() -> None:
    cases = _lesions()
    assert fit_confidence([one for one in cases if int(one.participant) < 7]) is None
    assert fit_confidence(cases[:19]) is None
    assert fit_confidence([one for one in cases if one.found]) is None


def test_confidence_is_fitted_without_held_out_patient() -> None:
    cases = _lesions()
    checked = check_confidence(cases)
    assert [case for case, _ in checked] == cases
    others = fit_confidence([one for one in cases if one.participant != "0"])
    assert others is not None
    assert checked[0][1] == others.confidence(cases[0].p)


@given(st.floats(0, 1), st.floats(0, 1))
def test_confidence_rises_with_the_probability(a: float, b: float) -> None:
    model = ConfidenceModel(0.8, -0.3, 100, 9)
    low, high = sorted((a, b))
    assert 0 < model.confidence(low) <= model.confidence(high) < 1


def test_auc_of_single_class_is_nan() -> None:
    case = LesionCase("1", "A", 0.5, True)
    assert math.isnan(rank_auc([(case, 0.5)]))
    assert math.isnan(rank_auc([]))


def test_sites_have_equal_weight_in_load_fit() -> None:
    many = [replace(case, site="A") for case in _loads(10)]
    few = [
        replace(case, site="B", participant=f"b{i}", truth_ml=4 * case.truth_ml)
        for i, case in enumerate(_loads(12)[10:])
    ]
    apart = fit_load([*many, *few])
    as_one = fit_load([replace(case, site="A") for case in (*many, *few)])
    assert apart is not None
    assert as_one is not None
    assert apart.half_width > 1.2 * as_one.half_width


def test_eight_patients_and_twenty_lesions_are_enough() -> None:
    assert fit_load(_loads(8)) is not None
    enough = [LesionCase(str(i % 8), "A", 0.5 + i / 50, i % 2 == 0) for i in range(20)]
    assert fit_confidence(enough) is not None
    assert fit_confidence(enough[1:]) is None
    assert fit_confidence([replace(one, participant="1") for one in enough]) is None


def test_confidence_fit_uses_platt_targets() -> None:
    """If all probabilities are equal, the confidence is the mean of the targets."""
    cases = [LesionCase(str(i % 8), "A", 0.75, i < 12) for i in range(20)]
    model = fit_confidence(cases)
    assert model is not None
    expected = (12 * 13 / 14 + 8 * 1 / 10) / 20
    assert model.confidence(0.75) == pytest.approx(expected, abs=1e-4)


def test_constant_volumes_give_zero_slope() -> None:
    cases = [LoadCase(str(i), "A", (5.0,) * len(SWEEP), i + 0.9) for i in range(8)]
    model = fit_load(cases)
    assert model is not None
    assert model.slope == 0
    assert model.intercept == pytest.approx(np.mean(np.log(np.arange(1, 9))))


def test_nearly_constant_volumes_give_nonzero_slope() -> None:
    cases = [
        LoadCase(str(i), "A", (volume - 0.1,) * len(SWEEP), 3 * volume - 0.1)
        for i, volume in enumerate(np.linspace(5, 5.1, 8).tolist())
    ]
    model = fit_load(cases)
    assert model is not None
    assert model.slope == pytest.approx(1)
    assert model.intercept == pytest.approx(math.log(3))


def test_load_interval_includes_its_ends() -> None:
    found = LoadModel(0.5, 1.0, 0.0, 0.5, 9).interval([4.0] * len(SWEEP))
    assert found.holds(found.low_ml)
    assert found.holds(found.high_ml)
    assert not found.holds(found.low_ml - 1e-6)
    assert not found.holds(found.high_ml + 1e-6)


def test_sweep_cuts_match_saved_calibrations() -> None:
    assert SWEEP == (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


def test_confidence_is_clipped_at_one_thousandth() -> None:
    model = ConfidenceModel(1.0, 0.0, 100, 9)
    assert model.confidence(0.0) == model.confidence(0.001) == pytest.approx(0.001)
    assert model.confidence(1.0) == model.confidence(0.999) == pytest.approx(0.999)


SHIPPED = LoadModel(0.8, 1.5643, -1.8037, 0.8264, 13)
"""Load model of shipped weights, fitted to loads of a few millilitres and more."""


@pytest.mark.parametrize("volume", [0.0, 0.01, 0.2, 0.6, 0.7, 5.0, 100.0])
@pytest.mark.parametrize(
    "model",
    [
        SHIPPED,
        replace(SHIPPED, half_width=0.0),
        LoadModel(0.5, 3.0, -6.0, 0.1, 9),
        LoadModel(0.5, 0.0, -9.0, 1.0, 9),
    ],
)
def test_load_interval_has_minimum_width(model: LoadModel, volume: float) -> None:
    found = model.interval([volume] * len(SWEEP))
    assert 0 <= found.low_ml <= found.expected_ml < found.high_ml
    assert f"{found.low_ml:.2f}" != f"{found.high_ml:.2f}"


def test_negative_prediction_gives_interval_from_zero() -> None:
    found = SHIPPED.interval([0.0] * len(SWEEP))
    assert (found.low_ml, found.expected_ml) == (0, pytest.approx(0, abs=1e-12))
    assert found.high_ml == pytest.approx(0.1 * (math.exp(0.8264) - 1))  # 0.13 mL
    assert not found.learnt


@pytest.mark.parametrize(
    ("volume", "learnt"), [(0.5, False), (1.0, True), (5.0, True), (20.0, True), (20.1, False)]
)
def test_interval_outside_training_range_is_not_learnt(volume: float, learnt: bool) -> None:
    model = LoadModel(0.5, 1.0, 0.0, 0.5, 9, (1.0, 20.0))
    assert model.interval([volume] * len(SWEEP)).learnt == learnt
    assert replace(model, range_ml=None).interval([volume] * len(SWEEP)).learnt


def test_volume_range_belongs_to_selected_cut() -> None:
    cases = _loads()
    model = fit_load(cases)
    assert model is not None
    volumes = [case.sweep_ml[SWEEP.index(0.6)] for case in cases]
    assert model.range_ml == (min(volumes), max(volumes))


@pytest.mark.parametrize(
    ("load", "learnt", "used", "side"),
    [
        (3.0, True, None, None),
        (2.0, True, None, None),
        (8.0, False, None, None),
        (9.0, True, "interval", "above"),
        (0.5, True, "interval", "below"),
        (9.0, False, "mask", "above"),
        (0.0, False, "mask", "below"),
    ],
)
def test_contradiction_states_which_load_to_use(
    load: float, learnt: bool, used: str | None, side: str | None
) -> None:
    said = LoadInterval(4.0, 2.0, 8.0, learnt).contradiction(load)
    assert bool(said) == (used is not None)
    if used is not None:
        assert f"use the {used}" in said
        assert f"is {side} the interval" in said


def test_auc_counts_ties_by_half() -> None:
    cases = [LesionCase("1", "A", 0.5, found) for found in (True, False, True)]
    assert rank_auc(list(zip(cases, (0.9, 0.5, 0.5), strict=True))) == 0.75


def test_load_interval_of_small_example() -> None:
    found = LoadModel(0.5, 1.0, 0.0, math.log(2), 9).interval([9.9] * len(SWEEP))
    assert (found.low_ml, found.expected_ml, found.high_ml) == pytest.approx((4.9, 9.9, 19.9))
