from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bids_msseg.cascade import schedule
from bids_msseg.cascade.folds import Split
from bids_msseg.cascade.judge_patches import JudgePlan
from bids_msseg.cascade.schedule import Stage, _quiet_allocator, plan_stages, run_all, run_stage
from bids_msseg.cascade.stages import Recipe
from bids_msseg.cascade.training import FitPlan

FOLDS = [3, 4, 5]


def _split(count: int) -> Split:
    return Split(tuple((f"v{fold}",) for fold in range(count)))


def _plan(count: int) -> dict[str, Stage]:
    plan = FitPlan(steps=1)
    stages = plan_stages(_split(count), Recipe(plan, plan, plan, judge=JudgePlan()))
    by_name = {stage.name: stage for stage in stages}
    assert len(by_name) == len(stages), "two stages share a name"
    return by_name


def _seen(stage: Stage, stages: dict[str, Stage], split: Split) -> set[int]:
    """Folds whose patients had any part in what a stage leaves, through all it builds on."""
    folds = set(stage.folds)
    if stage.kind == "oof":
        assert stage.fold is not None
        folds.add(stage.fold)
    if stage.kind in ("refinement", "judge"):
        folds |= set(split.without(*(() if stage.fold is None else (stage.fold,))))
    for name in stage.needs:
        folds |= _seen(stages[name], stages, split)
    return folds


@pytest.mark.parametrize("count", FOLDS)
def test_nothing_behind_the_score_of_a_fold_has_seen_it(count: int) -> None:
    split, stages = _split(count), _plan(count)
    for test in range(count):
        candidate = stages["candidate-" + "".join(map(str, split.without(test)))]
        for stage in (candidate, stages[f"refinement-{test}"], stages[f"judge-{test}"]):
            assert test not in _seen(stage, stages, split), stage.name


@pytest.mark.parametrize("count", FOLDS)
def test_candidates_for_refinement_come_from_unseen_patients(count: int) -> None:
    stages = _plan(count)
    for stage in stages.values():
        if stage.kind == "oof":
            for name in stage.needs:
                assert stage.fold not in _seen(stages[name], stages, _split(count))


@pytest.mark.parametrize("count", FOLDS)
def test_a_net_goes_on_only_from_one_that_saw_fewer_folds(count: int) -> None:
    stages = _plan(count)
    starts = [stage for stage in stages.values() if stage.start is not None]
    assert len(starts) == count
    for stage in starts:
        assert stage.start is not None
        assert set(stage.start) < set(stage.folds)
        assert stage.needs == ("candidate-" + "".join(map(str, stage.start)),)


@pytest.mark.parametrize("count", FOLDS)
def test_the_order_may_be_worked_through(count: int) -> None:
    done: set[str] = set()
    for stage in plan_stages(_split(count)):
        assert set(stage.needs) <= done, stage.name
        done.add(stage.name)


@pytest.mark.parametrize("count", FOLDS)
def test_what_a_refinement_net_reads_is_what_it_waits_for(count: int) -> None:
    split, stages = _split(count), _plan(count)
    for held in (None, *range(count)):
        for kind in ("refinement", "judge"):
            stage = stages[f"{kind}-ship" if held is None else f"{kind}-{held}"]
            made = {(stages[name].fold, stages[name].folds) for name in stage.needs}
            assert made == set(split.sources(held))


def test_nothing_beyond_what_is_needed_is_trained() -> None:
    kinds = [stage.kind for stage in plan_stages(_split(3))]
    assert (kinds.count("candidate"), kinds.count("oof"), kinds.count("refinement")) == (6, 9, 4)
    assert "judge" not in kinds
    plan = FitPlan(steps=1)
    recipe = Recipe(plan, plan, plan, inner=plan, judge=JudgePlan())
    kinds = [stage.kind for stage in plan_stages(_split(3), recipe)]
    assert kinds.count("judge") == kinds.count("refinement") == 4 + 6


def test_a_stage_writes_its_log(make_workshop) -> None:
    workshop = make_workshop()
    assert run_stage(workshop, Stage("candidate-0", "candidate", (0,))) == "candidate-0"
    lines = (workshop.folder / "logs" / "candidate-0.csv").read_text().splitlines()
    assert lines[0] == "step,steps,loss,seconds_per_step,dice"
    assert lines[1].startswith("2,2,")
    run_stage(workshop, Stage("candidate-0", "candidate", (0,)))
    again = (workshop.folder / "logs" / "candidate-0.csv").read_text().splitlines()
    assert again == lines


@pytest.mark.slow
def test_all_stages_are_run_and_a_failure_is_told(make_workshop) -> None:
    workshop = make_workshop()
    (workshop.folder / "cohort" / "sub-02.npz").unlink()
    finished: list[str] = []
    with pytest.raises(FileNotFoundError, match="sub-02"):
        run_all(workshop, jobs=1, threads=1, on_done=finished.append)
    assert finished == ["candidate-0", "candidate-1"]


def test_settings_of_the_allocator_are_put_back() -> None:
    before = dict(os.environ)
    with _quiet_allocator():
        assert os.environ["MALLOC_MMAP_MAX_"] == "0"
    assert dict(os.environ) == before


STOPPED = """
import sys, time
from functools import partial
from pathlib import Path

from bids_msseg.cascade.schedule import Stage, run_in_order


def work(folder, stage):
    if stage.name == "long":
        (folder / "begun").touch()
        time.sleep(60)
        (folder / "ended").touch()
    while not (folder / "begun").exists():
        time.sleep(0.05)
    raise ValueError("a net failed")


if __name__ == "__main__":
    stages = [Stage("long", "made"), Stage("short", "made"), Stage("later", "made")]
    try:
        run_in_order(stages, partial(work, Path(sys.argv[1])), jobs=2, threads=1)
    except ValueError as error:
        print(error)
"""


@pytest.mark.slow
def test_where_a_piece_fails_the_others_are_told_to_end(tmp_path: Path) -> None:
    script = tmp_path / "stopped.py"
    script.write_text(STOPPED)
    root = Path(schedule.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, script, tmp_path],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
        timeout=500,
    )
    assert done.stdout == "a net failed\n", done.stderr
    assert not (tmp_path / "ended").exists()
