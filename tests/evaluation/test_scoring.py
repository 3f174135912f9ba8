from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bids_msseg.evaluation.scoring import Score, cut_mask, keep_prediction, score, site_means
from bids_msseg.imaging.volume import Volume

# voxels of 1 x 1 x 3 mm
GRID = np.diag([1.0, 1, 3, 1])


def _score(mask: np.ndarray, truth: np.ndarray, **words: str) -> Score:
    known = {"visit": "sub-01", "site": "X", "method": "cascade", **words}
    return score(mask, Volume(truth.astype(np.float32), GRID), **known)


def _case() -> tuple[np.ndarray, np.ndarray]:
    """Two lesions of 8 and 2 voxels; the first half found, one false alarm."""
    truth, mask = np.zeros((20, 20, 10), bool), np.zeros((20, 20, 10), bool)
    truth[2:4, 2:4, 2:4] = True
    truth[10, 10, 5:7] = True
    mask[2:4, 2:4, 2] = True
    mask[16, 16, 2:6] = True
    return mask, truth


def test_score_of_small_example() -> None:
    got = _score(*_case())
    assert got.dice == pytest.approx(2 * 4 / (8 + 10))
    assert got.ppv == pytest.approx(0.5)
    assert got.sensitivity == pytest.approx(0.4)
    assert (got.lesion_sensitivity, got.lesion_ppv, got.lesion_f1) == (0.5, 0.5, 0.5)
    assert got.false_components == 1
    assert got.load_ml == pytest.approx(8 * 3 / 1000)
    assert got.truth_ml == pytest.approx(10 * 3 / 1000)


def test_score_of_identical_masks_is_perfect() -> None:
    _, truth = _case()
    got = _score(truth, truth)
    perfect = (got.dice, got.ppv, got.sensitivity, got.lesion_f1, got.lesion_f1_anima)
    assert perfect == (1, 1, 1, 1, 1)
    assert got.false_components == 0


def test_dice_of_two_empty_masks_is_nan() -> None:
    nothing = np.zeros((5, 5, 5), bool)
    assert math.isnan(_score(nothing, nothing).dice)


def test_site_means_exclude_undefined_scores() -> None:
    mask, truth = _case()
    nothing = np.zeros_like(mask)
    scores = [
        _score(truth, truth, site="B"),
        _score(mask, truth, site="A", visit="sub-02_ses-1"),
        _score(truth, truth, site="A", visit="sub-03"),
        _score(nothing, nothing, site="A", visit="sub-04"),
        _score(mask, truth, site="A", method="candidate net"),
    ]
    means = site_means(scores)
    groups = [(site, method, count) for site, method, count, _ in means]
    assert groups == [("A", "candidate net", 1), ("A", "cascade", 3), ("B", "cascade", 1)]
    assert means[1][3]["dice"] == pytest.approx((1 + 8 / 18) / 2)
    assert means[2][3]["lesion_f1"] == 1


def test_site_means_count_each_participant_once() -> None:
    mask, truth = _case()
    scores = [_score(truth, truth, visit=f"sub-01_ses-{number}") for number in range(3)]
    ((_, _, count, values),) = site_means([*scores, _score(mask, truth, visit="sub-02")])
    assert count == 2
    assert values["dice"] == pytest.approx((1 + 8 / 18) / 2)


def test_site_mean_without_defined_scores_is_nan() -> None:
    empty = replace(_score(*_case()), dice=math.nan)
    assert math.isnan(site_means([empty])[0][3]["dice"])


def test_cut_mask_removes_lesions_below_3_mm3() -> None:
    probability = np.zeros((9, 3, 3), np.float32)
    probability[0, 0, 0] = probability[4:7, 0, 0] = 0.9
    found = cut_mask(Volume(probability, np.eye(4)), 0.5)
    np.testing.assert_array_equal(np.flatnonzero(found[:, 0, 0]), [4, 5, 6])


@pytest.mark.parametrize(
    ("visit", "place"), [("sub-01", "sub-01/anat"), ("sub-01_ses-2", "sub-01/ses-2/anat")]
)
def test_predictions_have_names_of_derivatives(visit: str, place: str, tmp_path: Path) -> None:
    probability = Volume(np.full((2, 2, 2), 0.25, np.float32), GRID)
    keep_prediction(tmp_path, visit, "cascade", probability, np.ones((2, 2, 2), bool))
    mask, shares = sorted((tmp_path / place).iterdir())
    stem = f"{visit}_space-FLAIR_label-L"
    assert (mask.name, shares.name) == (f"{stem}_mask.nii.gz", f"{stem}_probseg.nii.gz")
    assert nib.load(shares).get_fdata()[0, 0, 0] == 0.25
    assert nib.load(mask).get_data_dtype() == np.uint8


def test_candidate_net_prediction_has_only_probability_map(tmp_path: Path) -> None:
    volume = Volume(np.zeros((2, 2, 2), np.float32), GRID)
    keep_prediction(tmp_path, "sub-01", "candidate net", volume, np.zeros((2, 2, 2), bool))
    assert [path.name for path in (tmp_path / "sub-01" / "anat").iterdir()] == [
        "sub-01_space-FLAIR_label-L_desc-candidate_probseg.nii.gz"
    ]
