"""Phantoms small enough that a net learns them in seconds on one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from bids_msseg.cascade.augment import AugmentPlan
from bids_msseg.cascade.folds import Split
from bids_msseg.cascade.networks import CandidateNet
from bids_msseg.cascade.patches import LabelledVisit
from bids_msseg.cascade.sampling import CandidateSampler
from bids_msseg.cascade.stages import Recipe, Workshop, save_visit
from bids_msseg.cascade.training import FitPlan, Report, fit
from bids_msseg.models.engine import Engine

MakeVisit = Callable[..., LabelledVisit]
MakeWorkshop = Callable[..., Workshop]


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def learned(
    make_visit: MakeVisit, tmp_path_factory: pytest.TempPathFactory
) -> tuple[CandidateNet, list[Report]]:
    """A net of two levels after a few dozen steps on three phantoms, and its log."""
    visits = [make_visit(f"sub-{seed}", seed=seed) for seed in range(3)]
    source = CandidateSampler(visits, 0, size=16, plan=AugmentPlan(thick=0.0))
    plan = FitPlan(steps=110, batch=2, workers=0, learning_rate=2e-2, ema=0.9)
    lines: list[Report] = []
    torch.manual_seed(0)
    checkpoint = tmp_path_factory.mktemp("learned") / "net.pt"
    net = fit(CandidateNet((4, 8)), source, plan, Engine(), checkpoint, report=lines.append)
    return net, lines


@pytest.fixture
def make_workshop(tmp_path: Path, make_visit: MakeVisit) -> MakeWorkshop:
    """Three folds of one phantom each, and a recipe of a handful of steps."""

    def make(*, steps: int = 2, folds: int = 3) -> Workshop:
        names = [f"sub-{number:02d}" for number in range(folds)]
        for folder in ("cohort", "checkpoints"):
            (tmp_path / folder).mkdir(exist_ok=True)
        for number, name in enumerate(names):
            save_visit(make_visit(name, seed=number, edge=24), tmp_path / "cohort" / f"{name}.npz")
        plan = FitPlan(steps=steps, batch=1, workers=0)
        recipe = Recipe(plan, plan, plan, widths=(4, 8), refinement_widths=(4, 8))
        split = Split(tuple((name,) for name in names))
        return Workshop(tmp_path, split, recipe, Engine(), 3)

    return make
