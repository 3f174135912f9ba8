"""Phantoms small enough that a net learns them in seconds on one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

from bids_msseg.cascade.augment import AugmentPlan
from bids_msseg.cascade.folds import Split
from bids_msseg.cascade.networks import CandidateNet
from bids_msseg.cascade.patches import LabelledVisit
from bids_msseg.cascade.sampling import CandidateSampler
from bids_msseg.cascade.stages import Recipe, Workshop, save_visit
from bids_msseg.cascade.training import FitPlan, Report, fit
from bids_msseg.models.engine import Engine

# a busy machine must not turn a right answer into a failure
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")

MakeVisit = Callable[..., LabelledVisit]
MakeWorkshop = Callable[..., Workshop]


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def make_visit() -> MakeVisit:
    """A ball of brain with noise around zero, and bright cubes of lesion in its FLAIR."""

    def make(
        name: str = "sub-01",
        *,
        site: str = "X",
        edge: int = 32,
        lesions: int = 4,
        seed: int = 0,
        present: tuple[bool, bool, bool] = (True, True, True),
    ) -> LabelledVisit:
        rng = np.random.default_rng(seed)
        shape = (edge, edge, edge)
        middle = (edge - 1) / 2
        distance = np.sqrt(sum((axis - middle) ** 2 for axis in np.indices(shape)))
        brain = distance < 0.45 * edge
        truth = np.zeros(shape, np.float16)
        for _ in range(lesions):
            low = rng.integers(edge // 3, 2 * edge // 3 - 2, 3)
            wide = rng.integers(2, 5, 3)
            box = tuple(slice(int(a), int(a + w)) for a, w in zip(low, wide, strict=True))
            truth[box] = 1
        images = rng.normal(0, 0.4, (3, *shape))
        images[0] += 3 * truth
        images[1] -= 1 * truth
        images[:, ~brain] = -3
        images[~np.array(present)] = 0
        return LabelledVisit(
            name, site, images.astype(np.float16), present, brain, truth, thick=False
        )

    return make


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
