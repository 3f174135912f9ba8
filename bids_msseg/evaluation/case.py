"""Evaluation of one visit: reads its files and builds its rows of the tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bids_msseg.errors import DataError
from bids_msseg.evaluation.figures import MIN_VOLUME, Masks, Row, figures, lesion_rows
from bids_msseg.evaluation.files import Pair
from bids_msseg.imaging.registration.itk import read_itk_affine
from bids_msseg.imaging.resample import inverse, mask_onto, resample
from bids_msseg.imaging.template import template_regions
from bids_msseg.imaging.volume import Affine, Volume, as_ras, load_or_raise
from bids_msseg.lesions.confidence.calibration import Reliability, reliability
from bids_msseg.lesions.mask_values import MaskValues, lesion_voxels
from bids_msseg.lesions.regions import Region, region_map
from bids_msseg.reports.evaluation.data import Case


@dataclass(frozen=True, slots=True)
class Rules:
    """Options that apply to every visit of an evaluation."""

    min_volume: float = MIN_VOLUME  # of lesions that are counted, mm³
    resample: bool = False  # allow an automatic mask on another grid
    fit_regions: bool = False  # register the template to a FLAIR without known regions
    mask_values: MaskValues = None  # lesion values of manual masks


@dataclass(frozen=True, slots=True)
class Outcome:
    """Results of one visit: its row of ``subjects`` and its rows of ``lesions``."""

    subject: Row
    lesions: tuple[Row, ...]  # manual lesions first
    reliability: Reliability | None  # None without a probability map
    notes: tuple[str, ...] = ()  # how the mask values were interpreted


def read_pair(pair: Pair, rules: Rules) -> tuple[Masks, tuple[str, ...]]:
    """Read both masks on the grid of the manual one, and notes on how values were interpreted.

    Raises DataError for other grids or damage.
    """
    if not (pair.same_grid or rules.resample):
        raise DataError(
            f"{pair.auto.name} and {pair.manual.name} are on different grids",
            hint="use masks in the same space, or pass --resample to resample the automatic mask "
            "onto the grid of the manual mask",
        )
    truth, auto = _read(pair.manual), _read(pair.auto)
    manual_lesions, manual_note = lesion_voxels(truth.data, pair.manual.name, rules.mask_values)
    auto_lesions, auto_note = lesion_voxels(auto.data, pair.auto.name)
    frame = truth.with_data(manual_lesions)
    probability = None if pair.probability is None else _image_on(_read(pair.probability), frame)
    masks = Masks.of(
        _mask_on(auto.with_data(auto_lesions), frame),
        frame.data,
        frame.affine,
        min_volume=rules.min_volume,
        probability=probability,
        brain=None if pair.brain is None else _mask_on(_read(pair.brain), frame),
    )
    return masks, tuple(f"{pair.key}: {note}" for note in (manual_note, auto_note) if note)


def _read(path: Path) -> Volume:
    volume = load_or_raise(path, f"cannot read {path}", hint="create this file again")
    return volume.with_data(volume.data.reshape(volume.data.shape[:3]))


def _on_same_grid(volume: Volume, frame: Volume) -> bool:
    return volume.shape == frame.shape and np.allclose(volume.affine, frame.affine, atol=1e-2)


def _mask_on(volume: Volume, frame: Volume) -> NDArray[np.bool_]:
    mask = volume.data > 0.5
    if _on_same_grid(volume, frame):
        return np.asarray(mask, bool)
    return mask_onto(volume.with_data(mask), frame.shape, frame.affine)


def _image_on(volume: Volume, frame: Volume) -> NDArray[np.float32]:
    data = volume if _on_same_grid(volume, frame) else resample(volume, frame.shape, frame.affine)
    return np.nan_to_num(data.data.astype(np.float32, copy=False))


def compare(pair: Pair, rules: Rules) -> Outcome:
    """Measure the agreement of the masks of one visit; DataError as in :func:`read_pair`."""
    masks, notes = read_pair(pair, rules)
    visit = {"name": pair.key, "site": pair.site}
    subject = visit | {
        "participant_id": pair.participant,
        "session_id": pair.session or "n/a",
        "resampled": "no" if pair.same_grid else "yes",
    }
    rows = lesion_rows(masks, _regions(pair, masks.frame, rules))
    chart = None
    if masks.probability is not None:
        chart = reliability(masks.probability, masks.manual)
    return Outcome(subject | figures(masks), tuple(visit | row for row in rows), chart, notes)


def _regions(pair: Pair, frame: Volume, rules: Rules) -> NDArray[np.integer] | None:
    """Return the region of each voxel; None if no source of regions is available."""
    if pair.regions is not None:
        volume = _read(pair.regions)
        labelled = resample(
            volume.with_data(volume.data.astype(np.int8)), frame.shape, frame.affine, order=0
        ).data
        return np.where((labelled >= 1) & (labelled <= 4), labelled, Region.DEEP_WHITE_MATTER)
    if pair.transform is not None:
        return _template_regions(frame, inverse(read_itk_affine(pair.transform)))
    if rules.fit_regions and pair.flair is not None and pair.brain is not None:
        return _template_regions(frame, inverse(_fit_template(pair)))
    return None


def _fit_template(pair: Pair) -> Affine:
    """Register the template to the brain; return the affine to FLAIR world mm."""
    # deepbet, which this module of the pipeline loads, is slow to import
    from bids_msseg.pipeline.preprocess import fit_template

    flair = _read(pair.flair or Path())
    brain = _mask_on(_read(pair.brain or Path()), flair)
    ras, mask = as_ras(flair), as_ras(flair.with_data(brain.astype(np.uint8)))
    return fit_template(ras, mask.data > 0).affine


def _template_regions(frame: Volume, to_template: Affine) -> NDArray[np.int8]:
    regions = resample(
        template_regions(), frame.shape, frame.affine, transform=to_template, order=0
    )
    return region_map(regions.data, frame.spacing)


def picture(pair: Pair, rules: Rules, subject: Row, lesions: Sequence[Row]) -> Case:
    """Load masks and FLAIR of one visit on the grid of the manual mask, for the page."""
    data, _ = read_pair(pair, rules)
    image = None if pair.flair is None else _image_on(_read(pair.flair), data.frame)
    return Case(
        pair.key,
        pair.site,
        image,
        data.auto,
        data.manual,
        data.auto_labels,
        data.manual_labels,
        data.affine,
        subject,
        tuple(lesions),
        data.brain,
    )
