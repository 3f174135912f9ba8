"""Going on from a given cascade on a site's own labelled patients.

For each held-out fold, and once for what is handed over, all nets go on from the given weights
on the other patients. CNN-2 and the judge learn on what CNN-1 as given found in them; the
operating point stays that of the given cascade, so nothing is chosen on a held-out patient. Every
piece of work is finished, resumable, or waits for another, as in :mod:`bids_msseg.cascade.stages`.

Public names: :class:`Piece`, :func:`plan_pieces`, :func:`do_piece`, :func:`tuned_cascade`,
:func:`given_probability`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bids_msseg.cascade.checkpoint import Cascade, load_cascade
from bids_msseg.cascade.folds import FoldSet, Split
from bids_msseg.cascade.inference import candidate_probability, find_candidates
from bids_msseg.cascade.judge_patches import judge_pool
from bids_msseg.cascade.judging import fit_judge, read_judge
from bids_msseg.cascade.networks import CandidateNet, Net, RefinementNet, build
from bids_msseg.cascade.sampling import RefinementSampler, judge_candidates
from bids_msseg.cascade.stages import Log, Workshop, load_average, sub_images, write_candidates
from bids_msseg.cascade.training import fit, is_finished
from bids_msseg.io.atomic import open_alone


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece of a fine-tuning.

    Attributes
    ----------
    name : str
        Of its checkpoint and log, too.
    kind : {"look", "candidate", "refinement", "judge"}
        ``look`` runs CNN-1 as given over a visit.
    folds : tuple of int
        Folds whose visits are learnt from.
    member : int
        Which net of the given ensemble goes on.
    visit : str
        Whom to look at.
    needs : tuple of str
        Names of the pieces that have to be finished first.
    """

    name: str
    kind: str
    folds: FoldSet = ()
    member: int = 0
    visit: str = ""
    needs: tuple[str, ...] = ()


def net_name(kind: str, test: int | None, member: int) -> str:
    """Name a tuned net that has not learnt from an outer fold; None for what is handed over.

    Examples
    --------
    >>> net_name("candidate", 2, 0), net_name("refinement", None, 0)
    ('candidate-without-2-net-0', 'refinement-ship-net-0')
    """
    held = "ship" if test is None else f"without-{test}"
    return f"{kind}-{held}-net-{member}"


def plan_pieces(
    split: Split, candidates: int, refinements: int, judges: int = 0
) -> tuple[Piece, ...]:
    """List the pieces of a fine-tuning, in an order that may be worked through.

    Parameters
    ----------
    split : Split
        With a single fold nobody is held out, and only what is handed over is made.
    candidates, refinements, judges : int
        How many nets of each ensemble go on.

    Returns
    -------
    tuple of Piece

    Examples
    --------
    >>> [piece.name for piece in plan_pieces(Split((("a",),)), 1, 1)]
    ['look-a', 'candidate-ship-net-0', 'refinement-ship-net-0']
    """
    members = split.members(split.everything)
    pieces = [Piece(f"look-{name}", "look", visit=name) for name in members]
    for test in (*held_out(split), None):
        folds = split.everything if test is None else split.without(test)
        looks = tuple(f"look-{name}" for name in split.members(folds))
        for kind, count, needs in (
            ("candidate", candidates, ()),
            ("refinement", refinements, looks),
            ("judge", judges, looks),
        ):
            pieces += [
                Piece(net_name(kind, test, member), kind, folds, member, needs=needs)
                for member in range(count)
            ]
    return tuple(pieces)


def held_out(split: Split) -> FoldSet:
    """Return the folds that can be held out: none where there is only one."""
    return split.everything if len(split.folds) > 1 else ()


def do_piece(workshop: Workshop, given: Path, log: Log, piece: Piece) -> str:
    """Do one piece of work and return its name; a finished one returns at once.

    Parameters
    ----------
    workshop : Workshop
        Its recipe's ``candidate``, ``refinement`` and ``judge`` say how long to go on; widths are
        those of the given nets.
    given : path
        Weights to go on from.
    log : callable
    piece : Piece
    """
    if piece.kind == "look":
        _look(workshop, given, piece.visit)
    elif piece.kind == "candidate":
        _tune_candidate(workshop, given, log, piece)
    elif piece.kind == "judge":
        _tune_judge(workshop, given, log, piece)
    else:
        _tune_refinement(workshop, given, log, piece)
    return piece.name


def _look(workshop: Workshop, given: Path, name: str) -> None:
    target = _look_path(workshop, name)
    if target.is_file():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    cascade, visit = load_cascade(given), workshop.visit(name)
    for net in cascade.candidate:
        net.to(workshop.engine.device)
    probability = candidate_probability(
        cascade.candidate,
        visit.images.astype(np.float32),
        visit.present,
        visit.brain,
        workshop.engine,
        trust=cascade.point.trust,
    )
    with open_alone(target) as stream:
        np.save(stream, probability)


def _look_path(workshop: Workshop, name: str) -> Path:
    return workshop.folder / "given" / f"{name}.npy"


def given_probability(workshop: Workshop, name: str) -> NDArray[np.float32]:
    """Read the probability of CNN-1 as given; float32, shape (X, Y, Z)."""
    probability: NDArray[np.float32] = np.load(_look_path(workshop, name), allow_pickle=False)
    return probability


def _seed(workshop: Workshop, piece: Piece) -> int:
    kind = {"refinement": 500, "judge": 700}.get(piece.kind, 0)
    folds = sum(1 << fold for fold in piece.folds)
    return workshop.seed + 1000 * folds + kind + 10 * piece.member


def _tune_candidate(workshop: Workshop, given: Path, log: Log, piece: Piece) -> None:
    plan, checkpoint = workshop.recipe.candidate, workshop.checkpoint(piece.name)
    if is_finished(checkpoint, plan):
        return
    seed = _seed(workshop, piece)
    torch.manual_seed(seed)
    fit(
        load_cascade(given).candidate[piece.member],
        sub_images(workshop, piece.folds, seed),
        replace(plan, seed=seed),
        workshop.engine,
        checkpoint,
        report=lambda line: log(piece.name, line),
    )


def _tune_refinement(workshop: Workshop, given: Path, log: Log, piece: Piece) -> None:
    """Go on with CNN-2; where CNN-1 found no candidate there is nothing to learn from."""
    plan, checkpoint = workshop.recipe.refinement, workshop.checkpoint(piece.name)
    if is_finished(checkpoint, plan):
        return
    cascade = load_cascade(given)
    gate = cascade.point.gate
    found = []
    for visit in workshop.visits(piece.folds):
        probability = given_probability(workshop, visit.name)
        found.append(judge_candidates(visit, probability, find_candidates(probability, gate)))
    write_candidates(checkpoint, gate, found)
    if not any(item.boxes for item in found):
        return
    seed = _seed(workshop, piece)
    torch.manual_seed(seed)
    fit(
        cascade.refinement[piece.member],
        RefinementSampler(found, seed, plan=workshop.recipe.augment),
        replace(plan, seed=seed),
        workshop.engine,
        checkpoint,
        report=lambda line: log(piece.name, line),
    )


def _tune_judge(workshop: Workshop, given: Path, log: Log, piece: Piece) -> None:
    """Go on with the judge; the given one stays where there are too few lesion voxels."""
    cascade = load_cascade(given)
    pools = [
        judge_pool(visit, given_probability(workshop, visit.name), cascade.point.gate)
        for visit in workshop.visits(piece.folds)
    ]
    fit_judge(
        workshop,
        cascade.judges[piece.member],
        pools,
        piece.name,
        seed=_seed(workshop, piece),
        log=log,
        needed=False,
    )


def tuned_cascade(
    workshop: Workshop,
    cascade: Cascade,
    test: int | None,
    candidates: int,
    refinements: int,
    judges: int = 0,
) -> Cascade:
    """Put together the nets that went on without an outer fold, at the given operating point.

    Parameters
    ----------
    workshop : Workshop
        All pieces are done.
    cascade : Cascade
        As given.
    test : int or None
        Outer fold; None for what is handed over.
    candidates, refinements, judges : int
        How many nets of each ensemble went on; the others are left out.

    Returns
    -------
    Cascade
        A refinement net or judge that had nothing to learn from is the given one.
    """
    first = tuple(
        _tuned_net(workshop, net, net_name("candidate", test, member))
        for member, net in enumerate(cascade.candidate[:candidates])
    )
    second = tuple(
        _tuned_net(workshop, net, net_name("refinement", test, member))
        for member, net in enumerate(cascade.refinement[:refinements])
    )
    return replace(
        cascade,
        candidate=tuple(net for net in first if isinstance(net, CandidateNet)),
        refinement=tuple(net for net in second if isinstance(net, RefinementNet)),
        judges=tuple(
            read_judge(workshop, net_name("judge", test, member)) or net
            for member, net in enumerate(cascade.judges[:judges])
        ),
    )


def _tuned_net(workshop: Workshop, given: CandidateNet | RefinementNet, name: str) -> Net:
    checkpoint = workshop.checkpoint(name)
    if isinstance(given, RefinementNet) and not checkpoint.is_file():
        return given
    net = build(given.config)
    net.load_state_dict(load_average(checkpoint))
    return net.eval()
