from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bids_msseg.imaging import quality
from bids_msseg.imaging.normalise import CONTRASTS, build_stack
from bids_msseg.imaging.quality import APPEARANCE, TrainingVisits, find_faults
from bids_msseg.imaging.quality_measures import cut_area, measure_visit
from bids_msseg.imaging.volume import Volume, as_ras, load_volume

Visit = tuple[dict[str, Volume], Volume]
Measures = dict[str, float]


def _measure(images: Mapping[str, Volume], mask: Volume) -> Measures:
    stack = build_stack(images, mask)
    return measure_visit(
        stack.data,
        stack.present,
        stack.brain,
        mask=mask,
        spacings={name: image.spacing for name, image in images.items()},
    )


@pytest.fixture(scope="module")
def visit(make_phantom: Callable[..., Any]) -> Visit:
    phantom = make_phantom(spacing=(2.0, 2.0, 2.0))
    images = {c: Volume(phantom.image(c), phantom.affine) for c in CONTRASTS}
    return images, Volume(images["FLAIR"].data > 0, phantom.affine)


@pytest.fixture(scope="module")
def clean(visit: Visit) -> Measures:
    return _measure(*visit)


@pytest.fixture(scope="module")
def training(make_phantom: Callable[..., Any]) -> TrainingVisits:
    phantom = make_phantom(spacing=(2.0, 2.0, 2.0))
    found = []
    for seed in range(1, 5):
        images = {c: Volume(phantom.image(c, seed), phantom.affine) for c in CONTRASTS}
        found.append(_measure(images, Volume(images["FLAIR"].data > 0, phantom.affine)))
    return TrainingVisits(tuple(found))


def test_visit_similar_to_training_has_no_faults(
    clean: Measures, training: TrainingVisits
) -> None:
    assert find_faults(clean, training) == ()
    assert find_faults(clean) == ()
    distance = training.distance(clean)
    assert distance is not None
    assert distance < 2


def test_every_contrast_is_measured(clean: Measures) -> None:
    assert clean["brain_ml"] == pytest.approx(4 / 3 * np.pi * 56 * 72 * 52 / 1000, rel=0.02)
    assert clean["cut_cm2"] == 0
    for contrast in CONTRASTS:
        assert clean[f"{contrast}_seen"] == 1
        assert clean[f"{contrast}_slice_mm"] == 2
    # fluid is dark on FLAIR and T1w, bright on T2w; white matter is bright on T1w only
    assert clean["T2w_p95"] > 2 > clean["FLAIR_p95"]
    assert clean["T1w_rise"] > 0.5 > clean["FLAIR_rise"]


def test_measures_do_not_depend_on_padding_gain_and_offset(visit: Visit, clean: Measures) -> None:
    images, mask = visit
    wide = {c: _padded(v.with_data(v.data * 3 + 7), 4) for c, v in images.items()}
    moved = _measure(wide, _padded(mask, 4))
    assert moved == pytest.approx(clean, abs=2e-3)


def _padded(volume: Volume, by: int) -> Volume:
    affine = volume.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ np.full(3, float(by))
    return Volume(np.pad(volume.data, by), affine)


def test_mislabelled_contrast_is_reported(visit: Visit, training: TrainingVisits) -> None:
    images, mask = visit
    for wrong in ("T1w", "T2w"):
        faults = find_faults(_measure({"FLAIR": images[wrong]}, mask), training)
        assert faults[0] == f"the FLAIR image looks like a {wrong} image: check the file names"
    swapped = {**images, "FLAIR": images["T2w"], "T2w": images["FLAIR"]}
    faults = find_faults(_measure(swapped, mask), training)
    assert [fault for fault in faults if "looks like" in fault] == [
        "the FLAIR image looks like a T2w image: check the file names",
        "the T2w image looks like a FLAIR image: check the file names",
    ]


def test_noise_is_flagged(
    visit: Visit, training: TrainingVisits, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, mask = visit
    flair = images["FLAIR"]
    noise = np.random.default_rng(0).normal(0, 120, flair.shape) * mask.data
    noisy = flair.with_data((flair.data + noise).astype(np.float32))
    measures = _measure({**images, "FLAIR": noisy}, mask)
    said = "the FLAIR image is noisy"
    faults = find_faults(measures, training)
    assert any(fault.startswith(said) for fault in faults)
    assert not any(fault.startswith("the T1w") for fault in faults)
    worst = max(measures[f"FLAIR_noise_{axis}"] for axis in "xyz")
    for limit, wanted in ((worst - 0.01, True), (worst + 0.01, False)):
        monkeypatch.setattr(quality, "MAX_NOISE", limit)
        faults = find_faults(measures)
        assert any(fault.startswith(said) for fault in faults) is wanted


def test_truncated_brain_is_flagged(visit: Visit, training: TrainingVisits) -> None:
    images, mask = visit
    middle = mask.shape[2] // 2
    half = {c: Volume(v.data[:, :, :middle], v.affine) for c, v in images.items()}
    faults = find_faults(_measure(half, Volume(mask.data[:, :, :middle], mask.affine)), training)
    assert any("the volume of the brain mask is" in fault for fault in faults)
    assert any("cuts off a part of the brain" in fault for fault in faults)


def test_contrast_covering_half_of_brain_is_flagged(
    visit: Visit, training: TrainingVisits
) -> None:
    images, mask = visit
    t2w = images["T2w"]
    half = Volume(t2w.data[:, :, : t2w.shape[2] // 2], t2w.affine)
    measures = _measure({**images, "T2w": half}, mask)
    assert measures["T2w_seen"] == pytest.approx(0.5, abs=0.05)
    assert any(
        fault.startswith("the T2w image covers ") for fault in find_faults(measures, training)
    )


def test_slices_thicker_than_the_training_are_flagged(
    clean: Measures, training: TrainingVisits
) -> None:
    thick = {**clean, "T1w_slice_mm": 2.4}
    assert "the T1w image has thick slices: 2.4 mm" in find_faults(thick, training)
    assert find_faults(thick) == ()
    faults = find_faults({**clean, "T1w_slice_mm": 9.0})
    assert faults == ("the T1w image has thick slices: 9.0 mm",)


def test_slices_that_differ_in_brightness_are_flagged(visit: Visit) -> None:
    images, mask = visit
    striped = images["FLAIR"].data.copy()
    striped[:, :, ::3] -= 40
    measures = _measure({**images, "FLAIR": images["FLAIR"].with_data(striped)}, mask)
    assert "the brightness of the FLAIR image differs between slices" in find_faults(measures)


def test_empty_brain_mask_is_the_only_fault() -> None:
    assert find_faults({"brain_ml": 0.0, "cut_cm2": 0.0}) == ("the brain mask is empty",)


def test_missing_contrast_is_not_a_fault(visit: Visit, training: TrainingVisits) -> None:
    images, mask = visit
    measures = _measure({"FLAIR": images["FLAIR"]}, mask)
    assert not any(name.startswith(("T1w", "T2w")) for name in measures)
    assert find_faults(measures, training) == ()


def test_contrasts_are_not_compared_with_few_training_visits(clean: Measures) -> None:
    few = TrainingVisits((clean,) * 3)
    assert few.distance(clean) is None
    assert few.distances_by_contrast(clean, "FLAIR") == {}
    swapped = {
        **{f"FLAIR_{name}": clean[f"T2w_{name}"] for name in APPEARANCE},
        "brain_ml": 1200.0,
        "cut_cm2": 0.0,
    }
    assert find_faults(swapped, few) == ()


def test_distance_is_to_nearest_training_visit(
    clean: Measures, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {name: value + 5 for name, value in clean.items()}
    known = TrainingVisits((clean, clean, other, other))
    assert known.distance(clean) == 0
    between = {name: value + 2.5 for name, value in clean.items()}
    distance = known.distance(between)
    assert distance is not None
    assert distance > 5
    assert any("distance to the training images" in f for f in find_faults(between, known))
    for name, limit in (("MAX_DISTANCE", 1e6), ("MAX_RIPPLE", 9), ("MIN_SEEN", 0)):
        monkeypatch.setattr(quality, name, limit)
    assert find_faults(between, known) != ()


def test_cut_area_is_that_of_largest_face() -> None:
    data = np.zeros((4, 5, 6), bool)
    data[0, 1:3, 1:3] = True
    data[1, 1, 5] = True
    assert cut_area(Volume(data, np.diag([1.0, 10.0, 10.0, 1.0]))) == 4


@pytest.mark.realdata
@pytest.mark.slow
def test_damaged_real_visits_are_flagged(shared_data: Path) -> None:
    from bids_msseg.calibration import read_calibration
    from bids_msseg.models.weights import find_model, read_header

    weights = find_model(None)
    known = read_calibration(weights, read_header(weights).sha256).training
    cohort = shared_data / "ms-cohort"
    anat = cohort / "sub-lj26" / "anat"
    images = {c: as_ras(load_volume(anat / f"sub-lj26_{c}.nii.gz")) for c in CONTRASTS}
    brain = "sub-lj26_space-FLAIR_desc-brain_mask.nii.gz"
    mask = as_ras(load_volume(cohort / "derivatives" / "manual" / "sub-lj26" / "anat" / brain))
    assert find_faults(_measure(images, mask), known) == ()
    for wanted, damaged, where in _damaged_visits(images, mask):
        assert any(wanted in fault for fault in find_faults(_measure(damaged, where), known))


def _damaged_visits(
    images: Mapping[str, Volume], mask: Volume
) -> Iterator[tuple[str, dict[str, Volume], Volume]]:
    flair = images["FLAIR"]
    yield "FLAIR image looks like a T2w", {"FLAIR": images["T2w"]}, mask
    yield "FLAIR image looks like a T1w", {"FLAIR": images["T1w"]}, mask
    inside = mask.data > 0
    noise = np.random.default_rng(0).normal(0, flair.data[inside].std(), flair.shape)
    noisy = (flair.data + noise * inside).astype(np.float32)
    yield "is noisy", {"FLAIR": flair.with_data(noisy)}, mask
    middle = int(np.median(np.flatnonzero(inside.any((0, 1)))))
    half = Volume(flair.data[:, :, :middle], flair.affine)
    yield "cuts off a part", {"FLAIR": half}, Volume(mask.data[:, :, :middle], mask.affine)
    striped = flair.data.copy()
    striped[:, :, ::3] -= 0.6 * flair.data[inside].std()
    yield "differs between slices", {"FLAIR": flair.with_data(striped)}, mask
