"""One visit of an evaluation: both masks on one grid, and every figure that they give.

Public names: :class:`Rules`, :class:`Loaded`, :class:`Outcome`, :func:`load`, :func:`compare`,
:func:`picture`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bids_msseg.commands.evaluate_files import Pair
from bids_msseg.errors import DataError
from bids_msseg.imaging.register import read_itk_affine, register_affine
from bids_msseg.imaging.resample import inverse, mask_onto, resample
from bids_msseg.imaging.template import load_template
from bids_msseg.imaging.volume import Affine, Volume, as_ras, load_volume
from bids_msseg.lesions.calibration import Reliability, reliability
from bids_msseg.lesions.detection import anima_agreement, isbi_agreement
from bids_msseg.lesions.instances import label_lesions
from bids_msseg.lesions.load import LesionRow, lesion_table
from bids_msseg.lesions.metrics import (
    ANY_OVERLAP,
    detection,
    normalised_dice,
    overlap_table,
    voxel_agreement,
)
from bids_msseg.lesions.regions import Region, region_map
from bids_msseg.lesions.strata import size_level
from bids_msseg.lesions.surface import surface_agreement
from bids_msseg.reports import evaluation_data as words

MIN_VOLUME: Final = 3.0
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rules:
    """What is asked of every visit.

    Attributes
    ----------
    min_volume : float
        Smaller lesions are not counted, in mm³.
    resample : bool
        Whether an automatic mask on another grid is brought onto the manual one's.
    fit_regions : bool
        Whether the template is fitted to FLAIRs whose regions are not known.
    """

    min_volume: float = MIN_VOLUME
    resample: bool = False
    fit_regions: bool = False


@dataclass(frozen=True, slots=True)
class Loaded:
    """Two masks with what is known of their voxels; arrays have shape (X, Y, Z) of the manual.

    Attributes
    ----------
    auto, manual : ndarray of bool
    auto_labels, manual_labels : ndarray of int32
        Counted lesions, by decreasing volume.
    affine : ndarray, shape (4, 4)
    probability : ndarray of float32 or None
    brain : ndarray of bool or None
    """

    auto: NDArray[np.bool_]
    manual: NDArray[np.bool_]
    auto_labels: NDArray[np.int32]
    manual_labels: NDArray[np.int32]
    affine: Affine
    probability: NDArray[np.float32] | None
    brain: NDArray[np.bool_] | None

    @property
    def frame(self) -> Volume:
        """The grid, holding the manual mask."""
        return Volume(self.manual, self.affine)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Figures of one visit.

    Attributes
    ----------
    subject : dict
        Row of ``subjects``.
    lesions : tuple of dict
        Rows of ``lesions``, manual ones first.
    reliability : Reliability or None
        None without a probability.
    """

    subject: Row
    lesions: tuple[Row, ...]
    reliability: Reliability | None


def load(pair: Pair, rules: Rules) -> Loaded:
    """Read both masks; a voxel above one half is lesion.

    Parameters
    ----------
    pair : Pair
    rules : Rules

    Returns
    -------
    Loaded
        On the grid of the manual mask. An automatic mask of another grid is read linearly there
        and cut at one half, if that was asked for.

    Raises
    ------
    DataError
        If the grids differ and resampling was not asked for, or a file is damaged.
    """
    if not (pair.same_grid or rules.resample):
        raise DataError(
            f"{pair.auto.name} and {pair.manual.name} are on different grids",
            cure="give masks of one space, or --resample to bring the automatic mask onto the "
            "grid of the manual one",
        )
    truth, found = _read(pair.manual), _read(pair.auto)
    manual = truth.data > 0.5
    frame = truth.with_data(manual)
    auto = _mask_on(found, frame)
    size, least = frame.voxel_volume, rules.min_volume
    probability = None if pair.probability is None else _on(_read(pair.probability), frame)
    return Loaded(
        auto,
        manual,
        label_lesions(auto, voxel_volume=size, min_volume=least),
        label_lesions(manual, voxel_volume=size, min_volume=least),
        truth.affine,
        probability,
        None if pair.brain is None else _mask_on(_read(pair.brain), frame),
    )


def _read(path: Path) -> Volume:
    try:
        volume = load_volume(path)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}", cure="write that file again") from error
    return volume.with_data(volume.data.reshape(volume.data.shape[:3]))


def _is_on(volume: Volume, frame: Volume) -> bool:
    return volume.shape == frame.shape and np.allclose(volume.affine, frame.affine, atol=1e-2)


def _mask_on(volume: Volume, frame: Volume) -> NDArray[np.bool_]:
    drawn = volume.data > 0.5
    if _is_on(volume, frame):
        return np.asarray(drawn, bool)
    return mask_onto(volume.with_data(drawn), frame.shape, frame.affine)


def _on(volume: Volume, frame: Volume) -> NDArray[np.float32]:
    data = volume if _is_on(volume, frame) else resample(volume, frame.shape, frame.affine)
    return np.nan_to_num(data.data.astype(np.float32, copy=False))


def compare(pair: Pair, rules: Rules) -> Outcome:
    """Measure how the masks of one visit agree.

    Parameters
    ----------
    pair : Pair
    rules : Rules

    Returns
    -------
    Outcome

    Raises
    ------
    DataError
        See :func:`load`.
    """
    data = load(pair, rules)
    overlap = overlap_table(data.manual_labels, data.auto_labels)
    subject = _subject(pair, data, overlap, rules)
    lesions = _lesions(pair, data, overlap, _regions(pair, data.frame, rules))
    chart = None
    if data.probability is not None:
        chart = reliability(data.probability, data.manual)
        subject["ece"] = chart.ece
        if data.brain is not None:
            brain = reliability(data.probability, data.manual, within=data.brain)
            subject["ece_brain"] = brain.ece
    return Outcome(subject, lesions, chart)


def _subject(pair: Pair, data: Loaded, overlap: NDArray[np.int64], rules: Rules) -> Row:
    frame = data.frame
    size = frame.voxel_volume
    voxels = voxel_agreement(data.auto, data.manual, voxel_volume=size)
    surface = surface_agreement(data.auto, data.manual, spacing=frame.spacing.tolist())
    lesions = detection(overlap, ANY_OVERLAP)
    isbi = isbi_agreement(data.auto, data.manual, voxel_volume=size)
    anima = anima_agreement(data.auto, data.manual, voxel_volume=size, min_volume=rules.min_volume)
    row: Row = dict.fromkeys(words.METRICS, math.nan)
    row |= {
        "name": pair.key,
        "participant_id": pair.participant,
        "session_id": pair.session or "n/a",
        "site": pair.site,
        "volume_manual_ml": voxels.volume_truth_ml,
        "volume_auto_ml": voxels.volume_pred_ml,
        "volume_mean_ml": (voxels.volume_truth_ml + voxels.volume_pred_ml) / 2,
        "n_manual": lesions.n_truth,
        "n_found": lesions.tp_truth,
        "n_missed": lesions.n_truth - lesions.tp_truth,
        "n_auto": lesions.n_pred,
        "n_true": lesions.tp_pred,
        "n_false": lesions.n_pred - lesions.tp_pred,
        "dice": voxels.dice,
        "ppv": voxels.ppv,
        "sensitivity": voxels.sensitivity,
        "volume_difference_ml": voxels.volume_pred_ml - voxels.volume_truth_ml,
        "volume_difference_relative": voxels.relative_volume_difference,
        "hd95_mm": surface.hd95_mm,
        "assd_mm": surface.assd_mm,
        "surface_dice_1mm": surface.surface_dice,
        "lesion_sensitivity": lesions.sensitivity,
        "lesion_ppv": lesions.ppv,
        "lesion_f1": lesions.f1,
        "isbi_ltpr": isbi.ltpr,
        "isbi_lfpr": isbi.lfpr,
        "isbi_score": isbi.score,
        "resampled": "no" if pair.same_grid else "yes",
    }
    for name, found in anima.items():
        row[f"anima_{name}_sensitivity"] = found.sensitivity
        row[f"anima_{name}_ppv"] = found.ppv
        row[f"anima_{name}_f1"] = found.f1
    if data.brain is not None:
        row["ndsc"] = normalised_dice(data.auto, data.manual, within=data.brain)
    return row


def _lesions(
    pair: Pair, data: Loaded, overlap: NDArray[np.int64], regions: NDArray[np.integer] | None
) -> tuple[Row, ...]:
    sides = (
        (words.MANUAL, data.manual_labels, overlap, (words.FOUND, words.MISSED)),
        (words.AUTO, data.auto_labels, overlap.T, (words.TRUE, words.FALSE)),
    )
    rows: list[Row] = []
    for side, labels, shared, states in sides:
        highest = _maxima(labels, data.probability)
        table = lesion_table(labels, data.affine, p_refined=data.probability, region_map=regions)
        for lesion, place in zip(table, _central_voxels(labels, data.affine, table), strict=True):
            partners = np.flatnonzero(shared[lesion.index, 1:]) + 1
            rows.append(
                {"name": pair.key, "site": pair.site, "side": side}
                | _described(lesion, place, float(highest[lesion.index]))
                | _met(lesion, shared[lesion.index], partners.tolist())
                | {"state": states[0] if len(partners) else states[1]}
            )
    return tuple(rows)


def _described(lesion: LesionRow, place: Sequence[int], highest: float) -> Row:
    shares = {f"share_{region.label}": lesion.shares[region - 1] for region in Region}
    return {
        "index": lesion.index,
        "volume_mm3": lesion.volume_mm3,
        "n_voxels": lesion.n_voxels,
        "size": size_level(lesion.volume_mm3),
        **dict(zip("xyz", lesion.centroid, strict=True)),
        **dict(zip("ijk", place, strict=True)),
        "region": lesion.region,
        **shares,
        "mean_probability": lesion.p_refined,
        "max_probability": highest,
    }


def _met(lesion: LesionRow, shared: NDArray[np.int64], partners: Sequence[int]) -> Row:
    """Say what a lesion shares with the counted lesions of the other mask."""
    voxels = int(shared[1:].sum())
    return {
        "overlap_mm3": voxels * lesion.volume_mm3 / lesion.n_voxels,
        "overlap_share": voxels / lesion.n_voxels,
        "n_partners": len(partners),
        "partners": ",".join(str(number) for number in partners) or "n/a",
    }


def _maxima(
    labels: NDArray[np.int32], probability: NDArray[np.float32] | None
) -> NDArray[np.float64]:
    """Find the highest probability in each label, by label."""
    highest = np.full(int(labels.max(initial=0)) + 1, math.nan)
    if probability is None:
        return highest
    inside = labels > 0
    highest[1:] = -math.inf
    np.maximum.at(highest, labels[inside], probability[inside].astype(np.float64))
    return highest


def _central_voxels(
    labels: NDArray[np.int32], affine: Affine, table: Sequence[LesionRow]
) -> list[list[int]]:
    """Find, in every lesion, the voxel nearest to its centre of mass."""
    if not table:
        return []
    inside = np.argwhere(labels)
    owner = labels[tuple(inside.T)]
    centres = np.zeros((int(labels.max()) + 1, 3))
    for lesion in table:
        centres[lesion.index] = lesion.centroid
    apart = inside @ affine[:3, :3].T + affine[:3, 3] - centres[owner]
    order = np.lexsort(((apart**2).sum(1).round(6), owner))
    _, first = np.unique(owner[order], return_index=True)
    nearest: list[list[int]] = inside[order[first]].tolist()
    return nearest


def _regions(pair: Pair, frame: Volume, rules: Rules) -> NDArray[np.integer] | None:
    """Give each voxel its region: as labelled, by the template's affine, or by fitting it."""
    if pair.regions is not None:
        volume = _read(pair.regions)
        labelled = resample(
            volume.with_data(volume.data.astype(np.int8)), frame.shape, frame.affine, order=0
        ).data
        return np.where((labelled >= 1) & (labelled <= 4), labelled, Region.DEEP_WHITE_MATTER)
    if pair.transform is not None:
        return _template_regions(frame, inverse(read_itk_affine(pair.transform)))
    if rules.fit_regions and pair.flair is not None and pair.brain is not None:
        return _template_regions(frame, inverse(_fitted(pair)))
    return None


def _fitted(pair: Pair) -> Affine:
    """Fit the template to the brain: template world mm to FLAIR world mm."""
    template = load_template()
    flair = _read(pair.flair or Path())
    brain = _mask_on(_read(pair.brain or Path()), flair)
    ras, mask = as_ras(flair), as_ras(flair.with_data(brain.astype(np.uint8)))
    return register_affine(
        ras, template.volume, moving_mask=mask.data > 0, fixed_mask=template.mask
    ).affine


def _template_regions(frame: Volume, to_template: Affine) -> NDArray[np.int8]:
    template = load_template()
    anatomy = template.volume.with_data(np.asarray(template.regions))
    here = resample(anatomy, frame.shape, frame.affine, transform=to_template, order=0)
    return region_map(here.data, frame.spacing)


def picture(pair: Pair, rules: Rules, subject: Row, lesions: Sequence[Row]) -> words.Case:
    """Load one visit for the page.

    Parameters
    ----------
    pair : Pair
    rules : Rules
    subject : mapping
        Its row of ``subjects``.
    lesions : sequence of mapping
        Its rows of ``lesions``.

    Returns
    -------
    Case
    """
    data = load(pair, rules)
    frame = data.frame
    image = None if pair.flair is None else _on(_read(pair.flair), frame)
    x, y, z = frame.spacing.tolist()
    return words.Case(
        pair.key,
        pair.site,
        image,
        data.auto,
        data.manual,
        data.auto_labels,
        data.manual_labels,
        (x, y, z),
        data.affine,
        subject,
        tuple(lesions),
    )
