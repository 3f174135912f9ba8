"""Volume changes of a pseudo-rescan, with a stub in place of the networks."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anatomy
import nibabel as nib
import numpy as np
import pytest
from accuracy_stored import Bench, Case
from accuracy_table import render
from anatomy import RESCANNED, percent_changes, rescan

from bids_msseg.models.anatomy import Anatomy
from bids_msseg.models.brain_volumes import LABELS, BrainVolumes
from bids_msseg.training.data.visits import LabelledVisit

EDGE = 40


def test_percent_changes_are_relative_to_first_volume() -> None:
    before = BrainVolumes({**dict.fromkeys(LABELS, 50.0), Anatomy.BRAINSTEM: 0.0})
    after = BrainVolumes({**before.ml, Anatomy.DEEP_GREY: 49.0, Anatomy.CEREBELLAR_WHITE: 55.0})
    found = percent_changes(before, after)
    assert found["deep_grey_ml"] == pytest.approx(-2)
    assert found["cerebellum_ml"] == pytest.approx(5)
    assert found["cortex_ml"] == 0
    assert np.isnan(found["brainstem_ml"])
    # parenchyma 300 of 450 mL, then 304 of 454
    expected = 100 * ((304 / 454) / (300 / 450) - 1)
    assert found["brain_parenchymal_fraction"] == pytest.approx(expected)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A visit with thin slices and a spherical brain."""
    axes = np.indices((EDGE,) * 3)
    brain = sum((axis - 19.5) ** 2 for axis in axes) < 15.7**2
    images = np.random.default_rng(0).normal(0, 1, (3, *brain.shape))
    images[:, ~brain] = -3
    visit = LabelledVisit(
        "sub-1",
        "A",
        images.astype(np.float16),
        (True, True, True),
        brain,
        np.zeros(brain.shape, np.float16),
        1.0,
    )
    truth = tmp_path / "truth.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros(brain.shape, np.uint8), np.eye(4)), truth)
    training: Any = SimpleNamespace(visit={"sub-1": visit}.__getitem__)
    return Bench(training, (Case("sub-1", "1", "A", 0, truth, truth, truth, truth),))


def test_rescan_reports_volume_changes_of_moved_brain(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The predicted volumes of the rescan are 3 % too small."""

    def see(_: object, visit: LabelledVisit, fold: int) -> BrainVolumes:
        assert fold == 0
        moved = visit.brain.shape != (EDGE,) * 3
        ml = float(np.count_nonzero(visit.brain)) * (0.97 if moved else 1)
        return BrainVolumes(dict.fromkeys(LABELS, ml))

    monkeypatch.setattr(anatomy, "predicted_volumes", see)
    signed, sizes = rescan(bench)
    assert [one.method for one in signed.findings] == ["same slices", "1 to 3 mm slices"]
    first = signed.findings[0].values
    assert {column.key for column in RESCANNED} <= set(first)
    assert first["cortex_ml"] == pytest.approx(-3, abs=1)
    assert first["brain_parenchymal_fraction"] == pytest.approx(0, abs=1e-9)
    assert sizes.findings[0].values["cortex_ml"] == -first["cortex_ml"]
    assert "| A, n = 1 | same slices |" in render(sizes)
