from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import accuracy_rerun
import nibabel as nib
import numpy as np
import pytest
from accuracy_rerun import (
    contrasts,
    hide,
    repeatability,
    rescan,
    rescan_plans,
    wall_time,
)
from accuracy_stored import Bench, Case
from accuracy_table import render
from thick_slices import in_plane

from bids_msseg.check.rescan import RescanPlan
from bids_msseg.models.engine import Engine
from bids_msseg.models.weights import CascadePoint
from bids_msseg.training.context import TrainingContext
from bids_msseg.training.data.folds import Split
from bids_msseg.training.data.visits import LabelledVisit, save_visit
from bids_msseg.training.recipe import CascadeRecipe

ALL = (True, True, True)
EDGE = 40
WHITE, LESION = 0.0, 3.0


def _visit(name: str, present: tuple[bool, bool, bool] = ALL) -> LabelledVisit:
    """A spherical brain with a lesion of radius 6 at (26, 18, 20), visible on every contrast."""
    index = np.indices((EDGE,) * 3)
    far = np.sqrt(sum((axis - 19.5) ** 2 for axis in index))
    spot = np.sqrt(sum((axis - at) ** 2 for axis, at in zip(index, (26, 18, 20), strict=True)))
    brain, truth = far < 15.7, spot <= 6
    rng = np.random.default_rng(0)
    images = rng.normal(WHITE, 0.3, (3, *brain.shape)) + LESION * truth
    images[:, ~brain] = -3
    images[~np.array(present)] = 0
    return LabelledVisit(
        name, "A", images.astype(np.float16), present, brain, truth.astype(np.float16), 1.0
    )


def _bench(folder: Path, *visits: LabelledVisit) -> Bench:
    cases = []
    for sub in ("cohort", "manual"):
        (folder / sub).mkdir()
    for visit in visits:
        save_visit(visit, folder / "cohort" / f"{visit.name}.npz")
        paths = []
        for kind, data in (("brain", visit.brain), ("truth", visit.truth > 0.5)):
            paths.append(folder / "manual" / f"{visit.name}_{kind}.nii.gz")
            nib.save(nib.Nifti1Image(data.astype(np.uint8), np.eye(4)), paths[-1])
        case = Case(visit.name, visit.name[4:], visit.site, 0, *paths, paths[1], paths[1])
        cases.append(case)
    split = Split((tuple(visit.name for visit in visits), ("sub-8",), ("sub-9",)))
    start = folder / "start.pt"
    recipe = CascadeRecipe()
    training = TrainingContext(folder, split, start, False, None, None, Engine(), recipe)
    (folder / "points.json").write_text(json.dumps({"0": asdict(CascadePoint(threshold=0.5))}))
    return Bench(training, tuple(cases))


@pytest.fixture
def eyes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, ...]]:
    """Replace the cascade by a threshold on FLAIR; return the list of contrasts it received.

    Without T2w it misses the upper half, without T1w it labels the whole brain.
    """
    shown: list[tuple[bool, ...]] = []

    def segment(
        training: TrainingContext, visit: LabelledVisit, fold: int, point: CascadePoint
    ) -> np.ndarray:
        assert training.engine == Engine()
        assert (fold, point.threshold) == (0, 0.5)
        shown.append(visit.present)
        called = (visit.images[0] > 1.5) & visit.brain
        if not visit.present[2]:
            called[:, :, 20:] = False
        if not visit.present[1]:
            called = visit.brain
        return called.astype(np.float32) * 0.9

    monkeypatch.setattr(accuracy_rerun, "held_out_probability", segment)
    return shown


def test_hidden_contrasts_are_absent_and_empty() -> None:
    visit = _visit("sub-1")
    less = hide(visit, ("T2w",))
    assert less.present == (True, True, False)
    assert less.images.dtype == visit.images.dtype
    assert not less.images[2].any()
    np.testing.assert_array_equal(less.images[:2], visit.images[:2])
    assert hide(visit, ("T1w", "T2w")).present == (True, False, False)
    lacking = _visit("sub-1", (True, True, False))
    assert hide(lacking, ("T2w",)).present == lacking.present


def test_contrasts_reports_dice_loss_of_hidden_contrasts(
    tmp_path: Path, eyes: list[object]
) -> None:
    visit = _visit("sub-1")
    inside = np.flatnonzero(visit.brain.any((1, 2)))
    assert (inside[0], inside[-1]) == (4, EDGE - 5)  # FLAIR and working grid are the same
    bench = _bench(tmp_path, visit)
    found = {one.method: one.values for one in contrasts(bench).findings}
    truth = visit.truth > 0.5
    half = truth.copy()
    half[:, :, 20:] = False
    lower = 2 * half.sum() / (half.sum() + truth.sum())
    everything = 2 * truth.sum() / (visit.brain.sum() + truth.sum())
    assert found["all contrasts"] == {"dice": 1.0}
    assert found["without T2w"]["dice"] == pytest.approx(lower)
    assert found["without T2w"]["loss"] == pytest.approx(1 - lower)
    assert found["FLAIR only"]["dice"] == pytest.approx(everything)
    assert eyes == [ALL, (True, True, False), (True, False, False)]


@pytest.mark.usefixtures("eyes")
def test_visit_that_lacks_t2w_has_no_row_without_t2w(tmp_path: Path) -> None:
    bench = _bench(tmp_path, _visit("sub-1", (True, True, False)), _visit("sub-2", (True,) * 3))
    found = [(one.visit, one.method) for one in contrasts(bench).findings]
    assert found == [
        ("sub-1", "all contrasts"), ("sub-1", "FLAIR only"),
        ("sub-2", "all contrasts"), ("sub-2", "without T2w"), ("sub-2", "FLAIR only"),
    ]  # fmt: skip


def test_rescan_of_clear_lesion_gives_similar_mask(tmp_path: Path, eyes: list[object]) -> None:
    section = rescan(_bench(tmp_path, _visit("sub-1")))
    found = {one.method: one.values for one in section.findings}
    assert list(found) == ["same slices", "1 to 3 mm slices"]
    assert 0.93 < found["same slices"]["dice"] < 1
    assert 0.8 < found["1 to 3 mm slices"]["dice"] < found["same slices"]["dice"]
    assert found["same slices"]["size"] < 0.1
    voxels = int((_visit("sub-1").truth > 0.5).sum())
    assert found["same slices"]["first_ml"] == pytest.approx(voxels / 1000)
    assert len(eyes) == 3


def test_thick_visits_are_only_moved_in_plane() -> None:
    thin = _visit("sub-1")
    assert rescan_plans(thin, (1.0, 1.0, 1.0)) == {
        "same slices": RescanPlan(),
        "1 to 3 mm slices": RescanPlan(slices=3.0),
    }
    thick = replace(thin, slice_mm=6.0)
    assert rescan_plans(thick, (0.9, 0.9, 6.5)) == {"same slices": in_plane(6.5, 2)}


def test_repeatability_of_empty_masks_is_undefined() -> None:
    nothing, something = np.zeros((2, 2, 2), bool), np.ones((2, 2, 2), bool)
    assert math.isnan(repeatability(nothing, nothing)["dice"])
    assert math.isnan(repeatability(nothing, something)["size"])
    assert repeatability(nothing, something)["dice"] == 0
    assert repeatability(something, nothing)["difference"] == -1


def test_wall_time_measures_default_and_fast_mode(tmp_path: Path, bright_model: Path) -> None:
    bench = _bench(tmp_path, _visit("sub-1"))
    section = wall_time(bench, visit="sub-1", threads=2, model=bright_model)
    assert [one.method for one in section.findings] == ["default", "fast"]
    assert all(one.values["seconds"] > 0 for one in section.findings)
    text = render(section)
    assert "`bright` on sub-1 (40 × 40 × 40 voxels of 1 mm), 2 threads, cpu" in text
    assert "mean" not in text
    nobody = wall_time(bench, visit="sub-7", threads=1, model=bright_model)
    assert nobody.findings == ()
    assert "sub-7 is not among the visits" in nobody.note
