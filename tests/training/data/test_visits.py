from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from bids_msseg.training.data.visits import LabelledVisit, find_places, load_visit, save_visit


def _visit(truth: np.ndarray) -> LabelledVisit:
    return LabelledVisit(
        "sub-01_ses-2",
        "X",
        np.zeros((3, *truth.shape), np.float16),
        (True, False, True),
        np.ones(truth.shape, bool),
        truth.astype(np.float16),
        slice_mm=1.0,
    )


def test_places_list_each_lesion_once() -> None:
    truth = np.zeros((6, 5, 4))
    truth[0, 0, 0] = 1
    truth[3:5, 2, 1:3] = 0.6
    truth[0, 4, 3] = 0.4
    places = find_places(_visit(truth))
    assert [len(lesion) for lesion in places.lesions] == [4, 1]
    joined = np.sort(np.concatenate(places.lesions))
    np.testing.assert_array_equal(joined, np.flatnonzero(truth >= 0.5))
    assert places.brain.size == truth.size


def test_visit_without_lesions_has_no_lesion_places() -> None:
    assert find_places(_visit(np.zeros((3, 3, 3)))).lesions == ()


def test_saved_visit_is_loaded_unchanged(tmp_path: Path) -> None:
    visit = _visit(np.random.default_rng(0).random((4, 3, 2)))
    visit = replace(visit, slice_mm=7.5)
    assert visit.thick
    save_visit(visit, tmp_path / "one.npz")
    again = load_visit(tmp_path / "one.npz")
    for field in fields(visit):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(visit, field.name))
    assert again.images.dtype == again.truth.dtype == np.float16
    assert again.participant == "sub-01"
