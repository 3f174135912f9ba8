"""From a stack to probabilities: tiles for the candidate net, crops for the refinement net.

bfloat16 is used where the processor multiplies it natively. Tiles and crops are visited in a fixed
order and summed in float32, so the same input gives the same bytes on the same CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bids_msseg.cascade.adaptation import adapt, bounded_logit, sigmoid
from bids_msseg.cascade.augment import BACKGROUND
from bids_msseg.cascade.checkpoint import Cascade
from bids_msseg.cascade.networks import CandidateNet, JudgeNet, RefinementNet
from bids_msseg.cascade.patches import cut, split_into_pieces
from bids_msseg.cascade.valverde.inference import patch_probability, without_gaps
from bids_msseg.lesions.instances import label_lesions
from bids_msseg.models.engine import Engine
from bids_msseg.models.inference import tile_weight
from bids_msseg.models.weights import OperatingPoint

TILE = 64
STRIDE = 48
FAST_STRIDE = 56
CROP = 32
Array = NDArray[np.float32]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Segmentation:
    """What the cascade says about one stack; arrays have shape (X, Y, Z).

    Attributes
    ----------
    candidate : ndarray of float32
        CNN-1's probability.
    probability : ndarray of float32
        Final probability.
    lesion : ndarray of float32
        CNN-2's lesion probability of the candidate that a voxel belongs to; 0 elsewhere.
    candidates : ndarray of bool
        Voxels that passed the gate.
    """

    candidate: Array
    probability: Array
    lesion: Array
    candidates: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class NetInput:
    """The six channels that both nets read, ready to be cut beyond the grid's rim.

    Attributes
    ----------
    lifted : ndarray of float32, shape (3, X, Y, Z)
        Contrasts minus their background value, zero where missing.
    present : ndarray of float32, shape (3,)
    """

    lifted: Array
    present: Array

    @classmethod
    def of(cls, images: NDArray[np.floating], present: Sequence[bool]) -> NetInput:
        """Prepare images of shape (3, X, Y, Z)."""
        flags = np.asarray(present, np.float32)
        lifted = (images.astype(np.float32) - BACKGROUND) * flags[:, None, None, None]
        return cls(lifted, flags)

    def cube(self, centre: Sequence[int], size: int) -> Array:
        """Cut images and presence maps, shape (6, size, size, size)."""
        seen = cut(self.lifted, centre, (size, size, size))
        flags = self.present[:, None, None, None]
        maps = np.broadcast_to(flags, seen.shape)
        return np.concatenate([seen + BACKGROUND * flags, maps]).astype(np.float32)


def tile_centres(
    brain: NDArray[np.bool_], *, tile: int = TILE, stride: int = STRIDE
) -> list[tuple[int, int, int]]:
    """List the centres of overlapping tiles that hold some brain."""
    centres: list[tuple[int, int, int]] = []
    lines = [_line(extent, tile, stride) for extent in brain.shape]
    for corner in product(*lines):
        box = tuple(slice(max(at, 0), at + tile) for at in corner)
        if brain[box].any():
            x, y, z = (at + tile // 2 for at in corner)
            centres.append((x, y, z))
    return centres


def _line(extent: int, tile: int, stride: int) -> list[int]:
    if extent <= tile:
        return [(extent - tile) // 2]
    steps = -(-(extent - tile) // stride)
    return [round(step * (extent - tile) / steps) for step in range(steps + 1)]


def candidate_probability(
    nets: Sequence[CandidateNet],
    images: Array,
    present: Sequence[bool],
    brain: NDArray[np.bool_],
    engine: Engine,
    *,
    mirror: bool = False,
    stride: int = STRIDE,
    trust: float = 0.0,
    progress: Progress | None = None,
) -> Array:
    """Run CNN-1 over a whole brain.

    Parameters
    ----------
    nets : sequence of CandidateNet
        Members of the ensemble; probabilities are averaged.
    images : ndarray of float32, shape (3, X, Y, Z)
        FLAIR, T1w, T2w in standard deviations, -3 outside the brain.
    present : sequence of bool
        Which contrasts are there.
    brain : ndarray of bool, shape (X, Y, Z)
    engine : Engine
    mirror : bool, default False
        Average with the left-right mirrored image.
    stride : int, default 48
        Distance between tiles of 64 voxels.
    trust : float, default 0
        How far the visit's own intensities correct the nets; see
        :func:`bids_msseg.cascade.adaptation.adapt`.
    progress : callable, optional
        Called with (done, total) tiles.

    Returns
    -------
    ndarray of float32, shape (X, Y, Z)
        0 outside the brain.
    """
    source = NetInput.of(images, present)
    centres = tile_centres(brain, stride=stride)
    weight = tile_weight(TILE)
    total = np.zeros(tuple(edge + 2 * TILE for edge in brain.shape), np.float32)
    norm = np.zeros_like(total)
    for start in range(0, len(centres), engine.batch):
        group = centres[start : start + engine.batch]
        tiles = np.stack([source.cube(centre, TILE) for centre in group])
        seen = _mean_probability(nets, torch.from_numpy(tiles), engine, mirror)
        for centre, tile in zip(group, seen, strict=True):
            box = tuple(slice(at + TILE // 2, at + 3 * TILE // 2) for at in centre)
            total[box] += tile * weight
            norm[box] += weight
        if progress:
            progress(min(start + engine.batch, len(centres)), len(centres))
    inner = tuple(slice(TILE, -TILE) for _ in range(3))
    mean = total[inner] / np.maximum(norm[inner], 1e-6)
    seen = np.where(brain, mean, np.float32(0)).astype(np.float32)
    return adapt(seen, images, present, brain, trust) if trust > 0 else seen


@torch.inference_mode()
def _mean_probability(
    nets: Sequence[CandidateNet], tiles: Tensor, engine: Engine, mirror: bool
) -> Array:
    batch = tiles.to(engine.device).contiguous(memory_format=torch.channels_last_3d)
    views = (False, True) if mirror else (False,)
    total = torch.zeros_like(batch[:, 0])
    for net in nets:
        for flipped in views:
            with engine.autocast():
                logits = net(batch.flip(2) if flipped else batch)[:, 0]
            total += torch.sigmoid((logits.flip(1) if flipped else logits).float())
    return (total / (len(nets) * len(views))).cpu().numpy()


def find_candidates(
    probability: Array, gate: float, *, seed: float | None = None, min_voxels: int = 3
) -> NDArray[np.int32]:
    """Label the 26-connected components that pass the gate.

    Parameters
    ----------
    probability : ndarray of float32, shape (X, Y, Z)
        CNN-1's probability on the 1 mm grid.
    gate : float
    seed : float, optional
        A component counts only if its peak reaches this.
    min_voxels : int, default 3
        Smaller components are dropped: they could not become a lesion of 3 mm³.

    Returns
    -------
    ndarray of int32, shape (X, Y, Z)
    """
    labels = label_lesions(probability >= gate, voxel_volume=1.0, min_volume=min_voxels)
    if seed is None or not labels.any():
        return labels
    peak = np.zeros(int(labels.max()) + 1, np.float32)
    np.maximum.at(peak, labels.ravel(), probability.ravel())
    return label_lesions((labels > 0) & (peak[labels] >= seed), voxel_volume=1.0)


def crop_candidates(
    source: NetInput,
    probability: Array,
    pieces: NDArray[np.int32],
    boxes: Sequence[tuple[slice, slice, slice]],
    chosen: Sequence[int],
    *,
    size: int = CROP,
) -> Array:
    """Cut the crops on which CNN-2 decides; shape (N, 8, size, size, size)."""
    crops = []
    for index in chosen:
        centre = [(side.start + side.stop) // 2 for side in boxes[index]]
        seen = source.cube(centre, size)
        cube = (size, size, size)
        opinion = cut(probability, centre, cube)
        member = cut(pieces, centre, cube) == index + 1
        crops.append(np.concatenate([seen, opinion[None], member[None].astype(np.float32)]))
    return np.stack(crops).astype(np.float32)


def refine(
    nets: Sequence[RefinementNet],
    images: Array,
    present: Sequence[bool],
    probability: Array,
    gate: float,
    engine: Engine,
    *,
    batch: int = 16,
) -> tuple[Array, Array]:
    """Run CNN-2 on every candidate.

    Returns
    -------
    voxels : ndarray of float32, shape (X, Y, Z)
        Probability of belonging to a lesion; 0 outside the candidates and their rim.
    lesion : ndarray of float32, shape (X, Y, Z)
        Lesion probability of the candidate a voxel belongs to; 0 outside candidates.
    """
    source = NetInput.of(images, present)
    pieces, boxes = split_into_pieces(find_candidates(probability, gate))
    voxels = np.zeros_like(probability)
    lesion = np.zeros_like(probability)
    for start in range(0, len(boxes), batch):
        chosen = range(start, min(start + batch, len(boxes)))
        crops = crop_candidates(source, probability, pieces, boxes, chosen)
        inside, whole = _judge(nets, torch.from_numpy(crops), engine)
        for index, crop, p_lesion in zip(chosen, inside, whole, strict=True):
            _paste(voxels, crop, boxes[index], pieces, index + 1)
            # a verdict that underflows to 0 would take the candidate off the account
            own = pieces[boxes[index]] == index + 1
            lesion[boxes[index]][own] = max(p_lesion, np.finfo(np.float32).tiny)
    return voxels, lesion


@torch.inference_mode()
def _judge(nets: Sequence[RefinementNet], crops: Tensor, engine: Engine) -> tuple[Array, Array]:
    batch = crops.to(engine.device).contiguous(memory_format=torch.channels_last_3d)
    inside = torch.zeros_like(batch[:, 0])
    whole = torch.zeros(len(batch), device=batch.device)
    for net in nets:
        with engine.autocast():
            voxel_logits, lesion_logits = net(batch)
        inside += torch.sigmoid(voxel_logits[:, 0].float())
        whole += torch.sigmoid(lesion_logits.float())
    return (inside / len(nets)).cpu().numpy(), (whole / len(nets)).cpu().numpy()


def _paste(
    target: Array,
    crop: Array,
    box: tuple[slice, slice, slice],
    pieces: NDArray[np.int32],
    label: int,
) -> None:
    """Write a crop's verdict where its own piece lies."""
    half = crop.shape[0] // 2
    corner = [(side.start + side.stop) // 2 - half for side in box]
    local = tuple(
        slice(side.start - at, side.stop - at) for side, at in zip(box, corner, strict=True)
    )
    own = pieces[box] == label
    target[box][own] = crop[local][own]


def segment(
    cascade: Cascade,
    images: Array,
    present: Sequence[bool],
    brain: NDArray[np.bool_],
    engine: Engine,
    *,
    fast: bool = False,
    progress: Progress | None = None,
) -> Segmentation:
    """Run the whole cascade on one stack.

    Parameters
    ----------
    cascade : Cascade
    images, present, brain
        See :func:`candidate_probability`.
    engine : Engine
    fast : bool, default False
        One member of each ensemble, and tiles that overlap less.
    progress : callable, optional

    Returns
    -------
    Segmentation
        The final probability of a candidate voxel is what :func:`fuse` makes of all nets'
        opinions; elsewhere it is 0.
    """
    first = cascade.candidate[:1] if fast else cascade.candidate
    second = cascade.refinement[:1] if fast else cascade.refinement
    judges = cascade.judges[:1] if fast else cascade.judges
    for net in (*first, *second, *judges):
        net.to(engine.device)
    stride = FAST_STRIDE if fast else STRIDE
    candidate = candidate_probability(
        first,
        images,
        present,
        brain,
        engine,
        stride=stride,
        trust=cascade.point.trust,
        progress=progress,
    )
    return decide(second, images, present, candidate, cascade.point, engine, judges=judges)


def decide(
    nets: Sequence[RefinementNet],
    images: Array,
    present: Sequence[bool],
    candidate: Array,
    point: OperatingPoint,
    engine: Engine,
    *,
    judges: Sequence[JudgeNet] = (),
) -> Segmentation:
    """Run the second half of the cascade on what CNN-1 found; see :func:`segment`."""
    voxels, lesion = refine(nets, images, present, candidate, point.gate, engine)
    judged = judge_voxels(judges, images, present, candidate > 0, lesion > 0, engine)
    correct = correction(images, present, candidate, point)
    final = fuse(candidate, voxels, lesion, point, correct, judged)
    return Segmentation(candidate, final, lesion, lesion > 0)


def judge_voxels(
    nets: Sequence[JudgeNet],
    images: Array,
    present: Sequence[bool],
    brain: NDArray[np.bool_],
    where: NDArray[np.bool_],
    engine: Engine,
) -> Array | None:
    """Let the judges look at the voxels of candidates.

    Parameters
    ----------
    nets : sequence of JudgeNet
    images, present, brain, engine
        See :func:`candidate_probability`.
    where : ndarray of bool, shape (X, Y, Z)
        Voxels to judge.

    Returns
    -------
    ndarray of float32, shape (X, Y, Z), or None
        Mean probability of lesion, 0 elsewhere; None without nets.
    """
    if not nets:
        return None
    filled = without_gaps(images, present, brain)
    opinions = [patch_probability(net, filled, where, engine) for net in nets]
    mean: Array = np.mean(opinions, axis=0, dtype=np.float32)
    return mean


def correction(
    images: Array, present: Sequence[bool], candidate: Array, point: OperatingPoint
) -> Callable[[Array], Array] | None:
    """Correct both nets' common probability by the visit's own intensities, where asked for.

    Parameters
    ----------
    images, present
        See :func:`candidate_probability`.
    candidate : ndarray of float32, shape (X, Y, Z)
        CNN-1's probability, which is 0 outside the brain only.
    point : OperatingPoint
    """
    if point.trust <= 0:
        return None
    return lambda mixed: adapt(mixed, images, present, candidate > 0, point.trust)


def fuse(
    candidate: Array,
    voxels: Array,
    lesion: Array,
    point: OperatingPoint,
    correct: Callable[[Array], Array] | None = None,
    judged: Array | None = None,
) -> Array:
    """Make one probability of what all nets say; see :func:`segment`.

    With ``point.verdict`` above 0, CNN-1's and CNN-2's probabilities of voxels, the judge's, and
    that of the whole candidate form a logarithmic opinion pool (Genest and Zidek 1986,
    doi:10.1214/ss/1177013825): whoever is sure counts more, and nobody has a veto. The visit's
    own intensities correct it. Else CNN-1's and CNN-2's are averaged, the visit's intensities
    correct the mean, and it is at most the lesion probability mapped so that ``keep`` falls on
    one half.

    Parameters
    ----------
    candidate, voxels, lesion : ndarray of float32, shape (X, Y, Z)
        CNN-1's probability, CNN-2's of voxels and of whole candidates.
    point : OperatingPoint
    correct : callable, optional
        See :func:`correction`.
    judged : ndarray of float32, shape (X, Y, Z), optional
        The judge's; without it CNN-1 and CNN-2 have its weight.

    Returns
    -------
    ndarray of float32, shape (X, Y, Z)
        0 outside candidates.
    """
    if point.verdict > 0:
        mixed = _pool(candidate, voxels, lesion, point, judged)
    else:
        mixed = (1 - point.second) * candidate + point.second * voxels
    if correct:
        mixed = correct(np.where(lesion > 0, mixed, np.float32(0)).astype(np.float32))
    if point.verdict <= 0:
        mixed = np.minimum(mixed, _ceiling(lesion, point.keep))
    final: Array = np.where(lesion > 0, mixed, np.float32(0)).astype(np.float32)
    return final


def _pool(
    candidate: Array, voxels: Array, lesion: Array, point: OperatingPoint, judged: Array | None
) -> Array:
    """Weigh opinions as sums of their logits."""
    judge = point.judge if judged is not None else 0.0
    both = 1 - judge - point.verdict
    total = both * (1 - point.second) * bounded_logit(candidate)
    total += both * point.second * bounded_logit(voxels)
    total += point.verdict * bounded_logit(lesion)
    if judged is not None:
        total += judge * bounded_logit(judged)
    return sigmoid(total)


def _ceiling(lesion: Array, keep: float) -> Array:
    """Map lesion probability linearly so that ``keep`` becomes one half, 0 and 1 stay.

    The threshold has no part in it: it is chosen on the result.
    """
    below = 0.5 * lesion / max(keep, 1e-6)
    above = 0.5 + 0.5 * (lesion - keep) / max(1 - keep, 1e-6)
    result: Array = np.where(lesion < keep, below, above).astype(np.float32)
    return result
