from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bids_msseg.errors import DataError
from bids_msseg.models.engine import Engine
from bids_msseg.trainer.plan import Report
from bids_msseg.training.data.folds import Split
from bids_msseg.training.data.visits import LabelledVisit, save_visit
from bids_msseg.training.valverde import stages
from bids_msseg.training.valverde.inference import probability
from bids_msseg.training.valverde.nets import PatchNet
from bids_msseg.training.valverde.sampling import PatchStream, find_candidates, random_pool
from bids_msseg.training.valverde.stages import (
    PatchRecipe,
    PatchTraining,
    first_prediction,
    segment_unseen,
    train_first,
    train_second,
)
from bids_msseg.training.valverde.train import PatchPlan, fit, load_finished

MakeVisit = Callable[..., LabelledVisit]
PLAN = PatchPlan(epochs=2, patches=96, batch=16)


class _StoppedError(Exception):
    pass


@pytest.fixture(scope="module")
def source(make_visit: MakeVisit) -> PatchStream:
    pools = [random_pool(make_visit(f"sub-{seed}", seed=seed), 0.5) for seed in range(2)]
    return PatchStream(pools, 5, batch=PLAN.batch, limit=PLAN.patches)


def _net() -> PatchNet:
    torch.manual_seed(0)
    return PatchNet()


def _fit(
    source: PatchStream, checkpoint: Path, plan: PatchPlan = PLAN, **words: object
) -> PatchNet:
    return fit(_net(), source, plan, Engine(), checkpoint, seed=1, **words)


def test_resumed_training_ends_with_same_weights(
    source: PatchStream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _fit(source, tmp_path / "whole.pt")
    real = PatchStream.at

    def stop_at_seven(self: PatchStream, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        if step == 7:
            raise _StoppedError
        return real(self, step)

    plan = replace(PLAN, checkpoint_s=0.0)
    with monkeypatch.context() as patched:
        patched.setattr(PatchStream, "at", stop_at_seven)
        with pytest.raises(_StoppedError):
            _fit(source, tmp_path / "stopped.pt", plan)
    assert load_finished(_net(), plan, tmp_path / "stopped.pt") is None
    torch.manual_seed(99)
    rest = _fit(source, tmp_path / "stopped.pt", plan)
    for key, value in whole.state_dict().items():
        assert torch.equal(value, rest.state_dict()[key]), key


def test_fit_does_not_change_global_random_state(source: PatchStream, tmp_path: Path) -> None:
    torch.manual_seed(4)
    expected = torch.rand(3)
    net = _net()
    torch.manual_seed(4)
    fit(net, source, replace(PLAN, epochs=1), Engine(), tmp_path / "net.pt", seed=1)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(("optimiser", "rate"), [("adam", 1e-3), ("adadelta", 1.0)])
def test_net_separates_lesions_of_unseen_visit(
    optimiser: str, rate: float, source: PatchStream, make_visit: MakeVisit, tmp_path: Path
) -> None:
    lines: list[Report] = []
    plan = replace(PLAN, epochs=6, optimiser=optimiser, learning_rate=rate)
    net = _fit(source, tmp_path / "net.pt", plan, report=lines.append)
    assert [line.step for line in lines] == [6 * source.steps]
    unseen = make_visit(seed=9)
    where = find_candidates(unseen, 0.5)
    found = probability(net, unseen.images, where, Engine())
    truth = unseen.truth[where] > 0
    assert np.mean(found[where][truth]) > 0.9
    assert np.mean(found[where][~truth]) < 0.3


def test_a_finished_net_is_loaded(source: PatchStream, tmp_path: Path) -> None:
    done = _fit(source, tmp_path / "net.pt")
    again = load_finished(PatchNet(), PLAN, tmp_path / "net.pt")
    assert again is not None
    assert not again.training
    assert torch.equal(again[0].weight, done[0].weight)
    assert load_finished(PatchNet(), PLAN, tmp_path / "none.pt") is None


def test_a_checkpoint_of_another_plan_is_refused(source: PatchStream, tmp_path: Path) -> None:
    _fit(source, tmp_path / "net.pt")
    other = replace(PLAN, learning_rate=0.5)
    with pytest.raises(DataError, match="another plan"):
        _fit(source, tmp_path / "net.pt", other)
    with pytest.raises(DataError, match="another plan"):
        load_finished(PatchNet("same"), PLAN, tmp_path / "net.pt")


def test_too_few_lesion_voxels_are_refused(tmp_path: Path, make_visit: MakeVisit) -> None:
    pools = [random_pool(make_visit(lesions=0), 0.5)]
    empty = PatchStream(pools, 0, batch=16, limit=100)
    with pytest.raises(DataError, match="too few lesion voxels for one batch of 16"):
        _fit(empty, tmp_path / "net.pt")


def _ignore_report(stage: str, line: Report) -> None:
    pass


@pytest.fixture
def training(tmp_path: Path, make_visit: MakeVisit) -> PatchTraining:
    """Three folds of one phantom each."""
    (tmp_path / "cohort").mkdir()
    for number in range(3):
        visit = make_visit(f"sub-{number}", seed=number, edge=24)
        save_visit(visit, tmp_path / "cohort" / f"sub-{number}.npz")
    split = Split((("sub-0",), ("sub-1",), ("sub-2",)))
    recipe = PatchRecipe(plan=PatchPlan(epochs=1, patches=64, batch=16))
    return PatchTraining(tmp_path, split, recipe, Engine(), 3, _ignore_report)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[str, ...]]]:
    """Record the visits that each stage is trained on, in order."""
    record: list[tuple[str, tuple[str, ...]]] = []
    names: list[str] = []
    read, train = stages.load_visit, stages.fit

    def load(path: Path) -> LabelledVisit:
        names.append(path.stem)
        return read(path)

    def note(*words: object, **more: object) -> PatchNet:
        record.append((Path(str(words[4])).stem, tuple(names)))
        names.clear()
        return train(*words, **more)

    monkeypatch.setattr(stages, "load_visit", load)
    monkeypatch.setattr(stages, "fit", note)
    return record


def test_networks_of_test_fold_do_not_see_its_patients(
    training: PatchTraining, seen: list[tuple[str, tuple[str, ...]]]
) -> None:
    train_second(training, 0)
    assert [stage for stage, _ in seen] == ["cnn1-2", "cnn1-1", "cnn2-without-0"]
    assert all("sub-0" not in names for _, names in seen)
    first, cascade = segment_unseen(training, "sub-0", 0)
    assert seen[-1] == ("cnn1-12", ("sub-1", "sub-2"))
    assert first.shape == cascade.shape == (24, 24, 24)


def test_mining_mode_sets_folds_of_cnn1_for_hard_negatives(
    training: PatchTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, tuple[int, ...]]] = []
    real = stages.first_prediction

    def note(place: PatchTraining, name: str, folds: tuple[int, ...]) -> np.ndarray:
        asked.append((name, folds))
        return real(place, name, folds)

    monkeypatch.setattr(stages, "first_prediction", note)
    train_second(training, 0)
    assert asked == [("sub-1", (2,)), ("sub-2", (1,))]
    paper = replace(training, recipe=replace(training.recipe, mining="training"))
    for path in (training.folder / "valverde").glob("cnn2*"):
        path.unlink()
    train_second(paper, 0)
    assert asked[2:] == [("sub-1", (1, 2)), ("sub-2", (1, 2))]


def test_candidate_threshold_is_same_in_training_and_inference(
    training: PatchTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    thresholds: list[float] = []
    real = stages.hard_pool

    def note(visit: object, above: float, prediction: object, threshold: float) -> object:
        thresholds.append(threshold)
        return real(visit, above, prediction, threshold)

    monkeypatch.setattr(stages, "hard_pool", note)
    opened = replace(training, recipe=replace(training.recipe, candidate_threshold=0.4))
    first, cascade = segment_unseen(opened, "sub-1", 1)
    assert thresholds == [0.4, 0.4]
    np.testing.assert_array_equal(cascade > 0, first > 0.4)
    assert (first > 0.4).any()


def test_segmenting_visit_outside_test_fold_is_refused(training: PatchTraining) -> None:
    with pytest.raises(ValueError, match="sub-1 is not in fold 0"):
        segment_unseen(training, "sub-1", 0)


def test_stored_prediction_equals_computed_one(training: PatchTraining) -> None:
    computed = first_prediction(training, "sub-0", (1,))
    assert (training.folder / "valverde" / "cnn1-1" / "sub-0.npy").is_file()
    assert first_prediction(training, "sub-0", (1,)).tobytes() == computed.tobytes()
    assert not list((training.folder / "valverde").rglob("*.part"))


def test_same_seed_gives_same_weights(training: PatchTraining) -> None:
    first = train_first(training, (0,))
    (training.folder / "valverde" / "cnn1-0.pt").unlink()
    torch.manual_seed(77)
    again = train_first(training, (0,))
    other = train_first(replace(training, seed=4), (1,))
    for key, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    assert not torch.equal(first[0].weight, other[0].weight)


def test_cascade_with_same_padding_segments_unseen_visit(training: PatchTraining) -> None:
    paper = replace(training, recipe=replace(training.recipe, padding="same"))
    first, cascade = segment_unseen(paper, "sub-2", 2)
    assert first.max() > 0
    assert set(np.unique(first[cascade > 0] > 0.5)) <= {True}
