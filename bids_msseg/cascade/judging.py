"""The judge of voxels in nested folds: it learns from what CNN-1 found in unseen patients."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from bids_msseg.cascade.judge_patches import JudgePlan, judge_pool, vary_patches
from bids_msseg.cascade.networks import JudgeNet
from bids_msseg.cascade.stages import (
    Log,
    Workshop,
    choose_unseen_gate,
    held_out_number,
    unseen,
)
from bids_msseg.cascade.valverde.sampling import PatchStream, Pool
from bids_msseg.cascade.valverde.train import fit, load_finished


def judge_stage(test: int | None, inner: int | None = None) -> str:
    """Name the stage of a judge; see :func:`bids_msseg.cascade.stages.refinement_stage`.

    Examples
    --------
    >>> judge_stage(None), judge_stage(2), judge_stage(2, 0)
    ('judge-ship', 'judge-2', 'judge-2-0')
    """
    held = "ship" if test is None else str(test)
    return f"judge-{held}" + ("" if inner is None else f"-{inner}")


def train_judge(
    workshop: Workshop, test: int | None, *, log: Log, inner: int | None = None
) -> None:
    """Train a judge on lesion voxels and on false voxels of candidates of unseen patients.

    Parameters
    ----------
    workshop : Workshop
    test : int or None
        Outer fold that must stay unseen.
    log : callable
    inner : int, optional
        Another fold to learn nothing from, so that thresholds can be chosen on it.

    Raises
    ------
    DataError
        If there are too few lesion voxels for one batch.
    """
    stage = judge_stage(test, inner)
    if workshop.recipe.judge is None or read_judge(workshop, stage) is not None:
        return
    found = unseen(workshop, test, inner)
    gate = choose_unseen_gate(found)
    pools = [judge_pool(visit, opinion, gate) for visit, opinion in found]
    seed = workshop.seed + 700 + held_out_number(test, inner)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = JudgeNet()
    fit_judge(workshop, net, pools, stage, seed=seed, log=log)


def fit_judge(
    workshop: Workshop,
    net: JudgeNet,
    pools: Sequence[Pool],
    stage: str,
    *,
    seed: int,
    log: Log,
    needed: bool = True,
) -> None:
    """Train a judge on some voxels, or go on with its training.

    Parameters
    ----------
    workshop : Workshop
        Its recipe's ``judge`` says for how long; nothing is done without.
    net : JudgeNet
        With the weights to start from.
    pools : sequence of Pool
    stage : str
        Name of its checkpoint and log.
    seed : int
    log : callable
    needed : bool, default True
        Whether too few lesion voxels are an error.

    Raises
    ------
    DataError
        If there are too few lesion voxels for one batch.
    """
    plan = workshop.recipe.judge
    if plan is None or read_judge(workshop, stage) is not None:
        return
    source = PatchStream(
        pools, seed, batch=plan.batch, most=plan.patches, vary=partial(vary_patches, plan=plan)
    )
    if not source.steps and not needed:
        return
    checkpoint = workshop.checkpoint(stage)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    fit(
        net,
        source,
        plan,
        workshop.engine,
        checkpoint,
        seed=seed,
        report=lambda line: log(stage, line),
    )


def read_judge(workshop: Workshop, stage: str) -> JudgeNet | None:
    """Load a judge by the name of its stage; None where it was not trained to its end."""
    plan: JudgePlan | None = workshop.recipe.judge
    net = JudgeNet()
    if plan is None or load_finished(net, plan, workshop.checkpoint(stage)) is None:
        return None
    return net


def judges_of(
    workshop: Workshop, test: int | None, inner: int | None = None
) -> tuple[JudgeNet, ...]:
    """Load the trained judge of an outer fold, of an inner one, or the one that ships.

    Returns
    -------
    tuple of JudgeNet
        Empty where the recipe has none, or none was trained to its end.
    """
    net = read_judge(workshop, judge_stage(test, inner))
    return () if net is None else (net,)
