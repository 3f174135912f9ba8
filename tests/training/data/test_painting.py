from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bids_msseg.models.anatomy import CLASSES, Anatomy
from bids_msseg.models.inference import Prediction
from bids_msseg.training.data.painting import (
    DEFAULT_CONTRAST,
    Painting,
    load_painting,
    measure_contrast,
    paint,
    save_painting,
    tissue_map,
)
from bids_msseg.training.data.visits import LabelledVisit
from bids_msseg.training.synthesis.plan import SynthesisPlan
from bids_msseg.training.synthesis.tissues import LabelMap, Tissue


def test_lesion_contrast_is_relative_to_surroundings(
    visit: LabelledVisit,
) -> None:
    measured = measure_contrast(visit.images, visit.present, visit.brain, visit.truth)
    assert measured[0] == pytest.approx(3, abs=0.2)
    assert measured[1] == pytest.approx(0, abs=0.2)
    # T2w was not acquired
    assert measured[2] == pytest.approx(DEFAULT_CONTRAST[2])


def test_contrast_without_lesions_is_default(visit: LabelledVisit) -> None:
    free = np.zeros_like(visit.truth)
    measured = measure_contrast(visit.images, visit.present, visit.brain, free)
    assert measured.tolist() == pytest.approx(DEFAULT_CONTRAST)


def test_tissue_map_converts_anatomy_to_1_mm() -> None:
    anatomy = np.zeros((CLASSES, 3, 2, 2), np.float16)
    anatomy[Anatomy.WHITE_MATTER] = 0.6
    anatomy[Anatomy.CORTEX, 0] = 0.7
    brain = np.ones((5, 4, 3), bool)
    brain[4] = False
    tissue = tissue_map(Prediction(np.zeros((5, 4, 3), np.float32), anatomy), brain)
    assert tissue.shape == brain.shape
    assert (tissue[:2] == Tissue.CORTEX).all()
    assert (tissue[2:4] == Tissue.WHITE).all()
    assert (tissue[4] == Tissue.AIR).all()


def test_paint_changes_images_only_inside_painted_lesions() -> None:
    images, share = np.zeros((3, 8, 8, 8), np.float32), np.zeros((8, 8, 8), np.float32)
    painted = np.zeros_like(share)
    painted[2:5, 2:5, 2:5] = 1
    plan = SynthesisPlan(within_lesion=0)
    changed, truth = paint(images, share, painted, (2, -1, 1), plan, np.random.default_rng(0))
    assert np.array_equal(truth, painted)
    assert np.array_equal(changed[0] > 0, painted > 0)
    assert np.array_equal(changed[1] < 0, painted > 0)
    assert not images.any()


def test_saved_painting_is_loaded_unchanged(label_map: LabelMap, tmp_path: Path) -> None:
    painting = Painting(label_map.draws, np.array([1.5, -0.5, 1.0], np.float32))
    save_painting(painting, tmp_path / "one.npz")
    again = load_painting(tmp_path / "one.npz")
    assert np.array_equal(again.contrast, painting.contrast)
    assert len(again.draws) == len(painting.draws)
    for one, other in zip(again.draws, painting.draws, strict=True):
        assert np.array_equal(one.voxels, other.voxels)
        assert np.array_equal(one.fraction, other.fraction)
