from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bids_msseg.cascade.stages import (
    candidate_net,
    find_out_of_fold,
    load_visit,
    operating_point,
    out_of_fold,
    refinement_net,
    save_visit,
    train_candidate,
    train_refinement,
)
from bids_msseg.errors import MssegError


def _quiet(*_: object) -> None:
    """Log nothing."""


def test_a_visit_survives_the_disk(make_visit, tmp_path: Path) -> None:
    visit = make_visit("sub-01_ses-2", present=(True, False, True))
    save_visit(visit, tmp_path / "v.npz")
    again = load_visit(tmp_path / "v.npz")
    for field in dataclasses.fields(visit):
        before, after = getattr(visit, field.name), getattr(again, field.name)
        assert type(before) is type(after)
        if isinstance(before, np.ndarray):
            assert before.dtype == after.dtype
        np.testing.assert_array_equal(before, after)
    assert [path.name for path in tmp_path.iterdir()] == ["v.npz"]


def test_a_net_that_has_seen_other_folds_is_no_start(make_workshop) -> None:
    workshop = make_workshop()
    with pytest.raises(ValueError, match="has seen patients outside"):
        train_candidate(workshop, (0,), start=(0, 1), log=_quiet)
    with pytest.raises(ValueError, match="has seen patients outside"):
        train_candidate(workshop, (0, 1), start=(2,), log=_quiet)
    assert not list((workshop.folder / "checkpoints").iterdir())


@pytest.mark.parametrize("seen", [(1,), (0, 1)])
def test_candidates_are_not_looked_for_in_seen_folds(make_workshop, seen) -> None:
    workshop = make_workshop()
    with pytest.raises(ValueError, match="has seen fold 1"):
        find_out_of_fold(workshop, 1, seen)
    assert not (workshop.folder / "oof").exists()


def test_going_on_starts_from_the_earlier_net(make_workshop) -> None:
    workshop = make_workshop(steps=1)
    train_candidate(workshop, (0,), start=None, log=_quiet)
    recipe = dataclasses.replace(
        workshop.recipe,
        continued=dataclasses.replace(workshop.recipe.continued, learning_rate=0.0),
    )
    workshop = dataclasses.replace(workshop, recipe=recipe)
    train_candidate(workshop, (0, 1), start=(0,), log=_quiet)
    before, after = candidate_net(workshop, (0,)), candidate_net(workshop, (0, 1))
    for one, other in zip(before.parameters(), after.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_training_depends_on_the_seed_of_the_workshop_alone(make_workshop) -> None:
    workshop = make_workshop(steps=2)
    weights = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        workshop.checkpoint("candidate-0").unlink(missing_ok=True)
        train_candidate(workshop, (0,), start=None, log=_quiet)
        weights.append(candidate_net(workshop, (0,)).state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_a_finished_stage_reads_no_visit(make_workshop) -> None:
    workshop = make_workshop(steps=1)
    train_candidate(workshop, (0,), start=None, log=_quiet)
    _write_opinions(workshop, 0.42)
    train_refinement(workshop, 0, log=_quiet)
    for path in (workshop.folder / "cohort").iterdir():
        path.unlink()
    train_candidate(workshop, (0,), start=None, log=_quiet)
    train_refinement(workshop, 0, log=_quiet)
    with pytest.raises(FileNotFoundError):
        train_candidate(workshop, (1,), start=None, log=_quiet)


def _write_opinions(workshop, height: float) -> None:
    """What candidate nets of single folds would have left: lesions, and one false alarm."""
    for fold, seen in workshop.split.sources(0):
        for name in workshop.split.folds[fold]:
            visit = workshop.visit(name)
            opinion = np.where(visit.truth >= 0.5, height, 0.01)
            opinion[5:7, 11:13, 11:13] = height
            folder = workshop.folder / "oof" / f"candidate-{seen[0]}"
            folder.mkdir(parents=True, exist_ok=True)
            np.save(folder / f"{name}.npy", opinion.astype(np.float16))


def test_refinement_writes_its_gate_and_what_it_learned_from(make_workshop) -> None:
    workshop = make_workshop(steps=1)
    _write_opinions(workshop, 0.42)
    train_refinement(workshop, 0, log=_quiet)
    assert operating_point(workshop, 0).gate == 0.4
    assert operating_point(workshop, 0).threshold == 0.5
    summary = json.loads((workshop.folder / "checkpoints" / "refinement-0.json").read_text())
    assert set(summary["candidates"]) == {"sub-01", "sub-02"}
    assert all(row["false"] == 1 <= row["lesions"] for row in summary["candidates"].values())
    assert refinement_net(workshop, 0).config.widths == (4, 8)


def test_nothing_found_is_an_error_with_a_hint(make_workshop) -> None:
    workshop = make_workshop(steps=1)
    _write_opinions(workshop, 0.01)
    with pytest.raises(MssegError, match="found no candidate") as caught:
        train_refinement(workshop, 0, log=_quiet)
    assert "steps" in caught.value.hint


def test_out_of_fold_probabilities_are_kept_and_not_made_twice(make_workshop) -> None:
    workshop = make_workshop(steps=1)
    train_candidate(workshop, (0,), start=None, log=_quiet)
    find_out_of_fold(workshop, 1, (0,))
    found = out_of_fold(workshop, "sub-01", (0,))
    visit = workshop.visit("sub-01")
    assert found.shape == visit.brain.shape
    assert found.dtype == np.float32
    assert (found[~visit.brain] == 0).all()
    assert (found[visit.brain] > 0).all()
    path = workshop.folder / "oof" / "candidate-0" / "sub-01.npy"
    before = path.stat().st_mtime_ns
    find_out_of_fold(workshop, 1, (0,))
    assert path.stat().st_mtime_ns == before
    assert [p.name for p in path.parent.iterdir()] == ["sub-01.npy"]
