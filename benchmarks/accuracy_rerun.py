"""Measures that run the networks again: fewer contrasts, a second scan, wall time.

Every visit is segmented by the cascade of its outer fold, which has not seen its patient.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from accuracy_stored import Bench, Case, measure
from accuracy_table import Column, Finding, Section
from numpy.typing import NDArray
from thick_slices import in_plane, thicken
from training_output import read_point

from bids_msseg.check.rescan import Rescan, RescanPlan, map_back, pseudo_rescan
from bids_msseg.evaluation.scoring import MIN_VOLUME, cut_mask, onto_flair
from bids_msseg.imaging.normalise import BACKGROUND, CONTRASTS, Stack
from bids_msseg.imaging.volume import as_ras, load_volume
from bids_msseg.lesions.comparison.metrics import voxel_agreement
from bids_msseg.training.data.visits import LabelledVisit

if TYPE_CHECKING:
    from bids_msseg.models.weights import CascadePoint
    from bids_msseg.training.context import TrainingContext

Array = NDArray[np.float32]
ALL_CONTRASTS, WITHOUT_T2W, FLAIR_ONLY = "all contrasts", "without T2w", "FLAIR only"
SAME_SLICES, THICK_SLICES = "same slices", "1 to 3 mm slices"
THICK_MM = 3
FREE_EDGE, FREE_SEED = 208, 4242
"""Edge of the synthetic heads without lesions, voxels of 1 mm, and their seed."""


@dataclass(frozen=True, slots=True)
class Unseen:
    """One visit with the cascade that has not seen its patient.

    Attributes
    ----------
    case : Case
    visit : LabelledVisit
        As prepared for the training.
    training : TrainingContext
    point : CascadePoint
        Of its test fold.
    """

    case: Case
    visit: LabelledVisit
    training: TrainingContext
    point: CascadePoint

    @classmethod
    def of(cls, bench: Bench, case: Case) -> Unseen:
        """Read the visit and the operating point of its fold."""
        training = bench.training
        point = read_point(training.folder, case.fold)
        return cls(case, training.visit(case.key), training, point)

    def probability(
        self,
        images: NDArray[np.floating],
        present: Sequence[bool],
        brain: NDArray[np.bool_],
        slice_mm: float | None = None,
    ) -> Array:
        """Segment a stack; return the probability, shape (X, Y, Z) as the brain's."""
        flair, t1w, t2w = (bool(flag) for flag in present)
        visit = replace(
            self.visit,
            images=images.astype(np.float16),
            present=(flair, t1w, t2w),
            brain=brain,
            slice_mm=slice_mm or self.visit.slice_mm,
        )
        return held_out_probability(self.training, visit, self.case.fold, self.point)

    def first(self) -> Array:
        """Segment the visit as it is."""
        return self.probability(self.visit.images, self.visit.present, self.visit.brain)

    def mask(self, probability: Array) -> NDArray[np.bool_]:
        """Resample a probability to the grid of the FLAIR as acquired and cut it there."""
        flair = load_volume(self.case.truth)
        native = onto_flair(probability, self.case.brain, flair)
        return cut_mask(native, self.point.threshold)


def held_out_probability(
    training: TrainingContext, visit: LabelledVisit, fold: int, point: CascadePoint
) -> Array:
    """Segment a visit by the networks that have not seen a test fold."""
    from bids_msseg.models.cascade import fuse
    from bids_msseg.training.protocol import run_on_visit

    output = run_on_visit(training, visit, fold)
    return fuse(output.prediction.lesion, output.refined, point, visit.slice_mm)


def hide(visit: LabelledVisit, hidden: Sequence[str]) -> LabelledVisit:
    """Leave contrasts out, as if they had not been acquired.

    Parameters
    ----------
    visit : LabelledVisit
    hidden : sequence of str
        Names of contrasts; those that are missing anyway change nothing.

    Returns
    -------
    LabelledVisit
        Their images are zero and not present.
    """
    visible = np.array([contrast not in hidden for contrast in CONTRASTS])
    flair, t1w, t2w = (bool(flag) for flag in visible & np.array(visit.present))
    images = np.where(visible[:, None, None, None], visit.images, visit.images.dtype.type(0))
    return replace(visit, images=images, present=(flair, t1w, t2w))


def contrasts(bench: Bench) -> Section:
    """Measure the loss of Dice without T2w and with FLAIR only."""

    def measure_case(bench: Bench, case: Case) -> list[Finding]:
        unseen = Unseen.of(bench, case)
        full_dice = _dice_with_truth(unseen, unseen.visit)
        findings = [case.finding(ALL_CONTRASTS, {"dice": full_dice})]
        for method, hidden in ((WITHOUT_T2W, ("T2w",)), (FLAIR_ONLY, ("T1w", "T2w"))):
            reduced = hide(unseen.visit, hidden)
            if reduced.present != unseen.visit.present:
                dice = _dice_with_truth(unseen, reduced)
                findings.append(case.finding(method, {"dice": dice, "loss": full_dice - dice}))
        return findings

    note = (
        "The same networks, with contrasts hidden that were acquired. The loss is the Dice with "
        "all acquired contrasts minus that without. Rows have only visits that have what is "
        "hidden."
    )
    columns = (Column("dice", "Dice"), Column("loss", "loss of Dice"))
    return Section("Missing contrasts", note, columns, measure(bench, "contrasts", measure_case))


def _dice_with_truth(unseen: Unseen, visit: LabelledVisit) -> float:
    mask = unseen.mask(unseen.probability(visit.images, visit.present, visit.brain))
    truth = load_volume(unseen.case.truth)
    return voxel_agreement(mask, truth.data > 0.5, voxel_volume=truth.voxel_volume).dice


def pretrained(bench: Bench) -> Section:
    """Measure the accuracy of the CNN-1 that was trained on synthetic images only."""
    from bids_msseg.training.protocol import read_unseen

    title = "CNN-1 trained on synthetic images only"
    if bench.training.start.suffix != ".pt":
        return Section(title, "This training started from networks that have seen patients.")

    def measure_case(bench: Bench, case: Case) -> list[Finding]:
        truth = load_volume(case.truth)
        probability = read_unseen(bench.training, case.key).lesion
        mask = cut_mask(onto_flair(probability, case.brain, truth), 0.5)
        agreement = voxel_agreement(mask, truth.data > 0.5, voxel_volume=truth.voxel_volume)
        values = {
            "dice": agreement.dice,
            "ppv": agreement.ppv,
            "sensitivity": agreement.sensitivity,
        }
        return [case.finding("pretrained CNN-1", values)]

    note = (
        "CNN-1 before fine-tuning, thresholded at one half. It was trained on images synthesised "
        "from label maps of other people."
    )
    labels = {"dice": "Dice", "ppv": "PPV", "sensitivity": "sensitivity"}
    columns = tuple(Column(name, label) for name, label in labels.items())
    return Section(title, note, columns, measure(bench, "pretrained", measure_case))


def lesion_free(bench: Bench) -> Section:
    """Measure false components in synthetic heads without lesions.

    The networks are those of the first test fold.
    """
    from bids_msseg.lesions.instances import label_lesions
    from bids_msseg.training.synthesis.dataset import SyntheticDataset
    from bids_msseg.training.synthesis.label_maps import read_label_maps

    title = "Heads without lesions"
    folder = bench.training.folder / "label-maps"
    if not folder.is_dir():
        return Section(title, "This training has no label maps.")
    fold = min(case.fold for case in bench.cases)
    point = read_point(bench.training.folder, fold)
    findings = []
    for number, head in enumerate(read_label_maps(folder)):
        empty = replace(head, draws=tuple(draw for draw in head.draws if not draw.voxels.size)[:1])
        item = SyntheticDataset([empty], FREE_SEED, size=FREE_EDGE)[number]
        channels = item[0].numpy()
        flair, t1w, t2w = (bool(flag) for flag in channels[3:, 0, 0, 0] > 0)
        # dark fluid may lie below the value of the background
        brain = channels[0] != BACKGROUND
        visit = LabelledVisit(
            head.name,
            "synthetic",
            channels[:3].astype(np.float16),
            (flair, t1w, t2w),
            brain,
            np.zeros(brain.shape, np.float16),
            1.0,
        )
        mask = held_out_probability(bench.training, visit, fold, point) >= point.threshold
        labels = label_lesions(mask, voxel_volume=1.0, min_volume=MIN_VOLUME)
        values = {"false": float(labels.max()), "false_ml": np.count_nonzero(labels) / 1000}
        findings.append(Finding(head.name, head.name, "synthetic", "cascade", values))
    note = (
        "Whole heads synthesised from the label maps of the pretraining, with other brightness "
        "and without lesions; components of at least 3 mm³, at the operating point of the first "
        "test fold."
    )
    columns = (Column("false", "false components", 1), Column("false_ml", "their volume mL", 2))
    return Section(title, note, columns, tuple(findings))


def rescan_plans(visit: LabelledVisit, spacing: Sequence[float]) -> dict[str, RescanPlan]:
    """Choose the second scans that can be computed for a visit.

    Parameters
    ----------
    visit : LabelledVisit
    spacing : sequence of float, length 3
        Voxel edges of its FLAIR in mm, axes as in the working grid.

    Returns
    -------
    dict of str to RescanPlan
        Thin slices: turned, shifted and noisy, as thin as they were and 3 mm thick. Thick slices:
        shifted in plane and noisy.
    """
    if visit.thick:
        axis = int(np.argmax(spacing))
        return {SAME_SLICES: in_plane(float(spacing[axis]), axis)}
    return {SAME_SLICES: RescanPlan(), THICK_SLICES: RescanPlan(slices=float(THICK_MM))}


def rescan(bench: Bench) -> Section:
    """Measure how well the masks of two scans of one brain agree."""

    def measure_case(bench: Bench, case: Case) -> list[Finding]:
        unseen = Unseen.of(bench, case)
        first = unseen.mask(unseen.first())
        spacing = as_ras(load_volume(case.truth)).spacing
        return [
            case.finding(method, repeatability(first, _second_scan_mask(unseen, plan)))
            for method, plan in rescan_plans(unseen.visit, spacing.tolist()).items()
        ]

    note = (
        "A second scan is simulated from the prepared stack: visits with 1 mm voxels are turned "
        "by 5° about an oblique axis, shifted by (1.3, -0.7, 2.1) mm, get Gaussian noise of a "
        "tenth of the brain's standard deviation, and are then also averaged to 3 mm slices; "
        "visits with thick slices are shifted in plane and get the same noise. Bias correction "
        "and brain extraction are not repeated, so two real scans can differ more. The load "
        "difference is pseudo-rescan minus scan, divided by the load of the scan."
    )
    columns = (
        Column("dice", "Dice of both masks"),
        Column("difference", "relative load difference"),
        Column("size", "its absolute value"),
        Column("first_ml", "load of the scan mL", 2),
    )
    voxels = _with_volume(bench, measure(bench, "rescan", measure_case))
    return Section("Pseudo-rescan", note, columns, voxels)


def _with_volume(bench: Bench, findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Turn counts of voxels into mL."""
    sizes = {case.key: load_volume(case.truth).voxel_volume for case in bench.cases}
    return tuple(
        replace(
            finding,
            values={
                **finding.values,
                "first_ml": finding.values["first_voxels"] * sizes[finding.visit] / 1000,
            },
        )
        for finding in findings
    )


def second_scan(visit: LabelledVisit, plan: RescanPlan) -> Rescan:
    """Simulate a second scan of a visit, averaged over the slices of the plan if they are thicker.

    A visit with thick slices has them already.
    """
    average = None
    if plan.slices > 1 and not visit.thick:
        average = partial(thicken, voxels=int(plan.slices), axis=plan.slice_axis)
    return pseudo_rescan(visit.images, visit.present, visit.brain, plan, average)


def _second_scan_mask(unseen: Unseen, plan: RescanPlan) -> NDArray[np.bool_]:
    """Segment the second scan and bring its mask to the first."""
    visit = unseen.visit
    second = second_scan(visit, plan)
    slice_mm = max(visit.slice_mm, plan.slices)
    probability = unseen.probability(second.images, visit.present, second.brain, slice_mm)
    x, y, z = visit.brain.shape
    return unseen.mask(map_back(probability, second, (x, y, z)))


def repeatability(first: NDArray[Any], second: NDArray[Any]) -> dict[str, float]:
    """Compare the masks of two scans of one brain.

    Parameters
    ----------
    first, second : ndarray, shape (X, Y, Z)
        Non-zero inside lesions, on one grid.

    Returns
    -------
    dict of str to float
        ``dice``; ``difference``, second minus first load as a share of the first; ``size``,
        without its sign; ``first_voxels``. NaN where the first mask is empty, the Dice where both
        are.

    Examples
    --------
    >>> repeatability(np.array([[[1, 1, 1, 1]]]), np.array([[[0, 1, 1, 1]]]))
    {'dice': 0.8571428571428571, 'difference': -0.25, 'size': 0.25, 'first_voxels': 4.0}
    """
    agreement = voxel_agreement(second, first, voxel_volume=1.0)
    difference = agreement.relative_volume_difference
    return {
        "dice": agreement.dice,
        "difference": difference,
        "size": abs(difference) if not math.isnan(difference) else math.nan,
        "first_voxels": float(np.count_nonzero(first)),
    }


def wall_time(
    bench: Bench, *, visit: str, threads: int, model: str | Path | None = None
) -> Section:
    """Time the released cascade on one brain, default and fast.

    Parameters
    ----------
    bench : Bench
    visit : str
        Whose brain.
    threads : int
        Of torch; set by the caller, reported in the note.
    model : str or path, optional
        The bundled default where not given.

    Returns
    -------
    Section
        Each way is run once, without a run to warm up.
    """
    from bids_msseg.models.weights import find_model, read_header
    from bids_msseg.pipeline.segment import segment_stack

    cases = [case for case in bench.cases if case.key == visit]
    title = "Wall time of the cascade"
    if not cases:
        return Section(title, f"{visit} is not among the visits: nothing was timed.")
    trained = sorted(bench.training.folder.glob("*.safetensors"))
    chosen = model or (trained[0] if trained else None)
    path = find_model(None if chosen is None else str(chosen))
    brain, device = bench.training.visit(visit), bench.training.engine.device
    images = brain.images.astype(np.float32)
    stack = Stack(images, brain.present, brain.brain, np.eye(4), brain.slice_mm)
    findings = []
    for method, fast in (("default", False), ("fast", True)):
        load = os.getloadavg()[0]
        start = time.perf_counter()
        segment_stack(stack, path, device=device, fast=fast)
        seconds = time.perf_counter() - start
        findings.append(cases[0].finding(method, {"seconds": seconds, "load": load}))
    size = " × ".join(str(edge) for edge in brain.brain.shape)
    note = (
        f"`{read_header(path).name}` on {visit} ({size} voxels of 1 mm), {threads} thread"
        f"{'s' if threads > 1 else ''}, {device}; from stack to "
        "probability, with reading the weights. The load average is that of the minute before."
    )
    columns = (Column("seconds", "s", 1), Column("load", "load average", 2))
    return Section(title, note, columns, tuple(findings), averaged=False)
