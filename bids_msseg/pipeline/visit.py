"""One visit from preprocessed images to lesions, anatomy, regions and filled images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from bids_msseg.imaging.atlas import Atlas
from bids_msseg.imaging.brain import torch_threads
from bids_msseg.imaging.registration.itk import as_stored_affine
from bids_msseg.imaging.resample import inverse
from bids_msseg.imaging.template import EMBEDDED
from bids_msseg.imaging.volume import Affine, Volume, as_stored
from bids_msseg.lesions.atlas import RegionLoad
from bids_msseg.models.weights import ModelHeader
from bids_msseg.pipeline.anatomy import MeasuredBrain, measure_brain
from bids_msseg.pipeline.atlas import measure_regions, outside_note
from bids_msseg.pipeline.filling import fill_image
from bids_msseg.pipeline.given_masks import (
    outside_brain_note,
    read_exclusion_masks,
    read_given_mask,
)
from bids_msseg.pipeline.lesions import (
    Grid,
    VisitLesions,
    find_anatomy,
    find_lesions,
    list_given_lesions,
    mask_on_grid,
)
from bids_msseg.pipeline.preprocess import Preprocessed, fit_template
from bids_msseg.pipeline.segment import segment_stack
from bids_msseg.spaces import NATIVE_SPACES, AtlasChoice


@dataclass(frozen=True, slots=True)
class GivenMasks:
    """Masks from elsewhere on the grid of the FLAIR as acquired; None where not given."""

    lesions: NDArray[np.bool_] | None = None
    excluded: NDArray[np.bool_] | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def read(
        cls, grid: Grid, lesion_mask: Path | None, exclude_masks: Sequence[Path]
    ) -> GivenMasks:
        """Read the masks; raise DataError if one is on another grid."""
        lesions, note = None, ""
        excluded: NDArray[np.bool_] | None = None
        notes: tuple[str, ...] = ()
        if lesion_mask is not None:
            lesions, note = read_given_mask(lesion_mask, grid, what="lesion mask")
        if exclude_masks:
            excluded, notes = read_exclusion_masks(exclude_masks, grid)
        return cls(lesions, excluded, tuple(text for text in (note, *notes) if text))


@dataclass(frozen=True, slots=True)
class VisitJob:
    """Checked settings of the segmentation of one visit; ``min_volume`` is in mm³."""

    model: Path
    header: ModelHeader
    threshold: float
    min_volume: float
    device: str
    threads: int
    seed: int
    atlases: tuple[tuple[AtlasChoice, Atlas], ...]
    fill_lesions: bool
    masks: GivenMasks = GivenMasks()


@dataclass(frozen=True, slots=True)
class SegmentedVisit:
    """Results of the networks; probability and anatomy are on the working grid."""

    lesions: VisitLesions
    brain: MeasuredBrain
    probability: Volume
    anatomy: Volume
    notes: tuple[str, ...]


def find_visit_lesions(preprocessed: Preprocessed, grid: Grid, job: VisitJob) -> SegmentedVisit:
    """Run the networks and list the lesions, of the networks or of the given mask.

    Images between the steps have the precision of files.
    """
    regions, region_anatomy = find_anatomy(
        preprocessed.images,
        preprocessed.transforms,
        preprocessed.brain.data > 0,
        preprocessed.template_to_flair,
    )
    given = job.masks.lesions
    with torch_threads(job.threads):
        maps = segment_stack(
            preprocessed.stack, job.model, device=job.device, anatomy_only=given is not None
        )
    classes = as_stored(maps.pop("anatomy"), np.uint8)
    stored = {name: as_stored(volume) for name, volume in maps.items()}
    stored |= {"mask": preprocessed.brain, "regions": as_stored(regions, np.uint8)}
    lesions = _list_lesions(
        preprocessed, grid, stored, job, own_ventricles=region_anatomy.from_own_fluid
    )
    notes = [("anatomy", region_anatomy.note)]
    notes += [("delineate", note) for note in job.masks.notes]
    if given is not None:
        notes.append(("delineate", outside_brain_note(given, lesions.maps["brain"])))
    trusted = preprocessed.extracerebral is not None
    brain = measure_brain(classes, grid, preprocessed.template_to_flair if trusted else None)
    notes.append(("volumes", brain.note))
    return SegmentedVisit(
        lesions,
        brain,
        _final_probability(lesions, grid, stored),
        classes,
        tuple(f"{step}: {note}" for step, note in notes if note),
    )


def _final_probability(lesions: VisitLesions, grid: Grid, stored: Mapping[str, Volume]) -> Volume:
    """Return the probability that other spaces are cut from; 0 or 1 for a given mask."""
    if lesions.cleared is not None:
        return as_stored(lesions.cleared)
    if "probability" in stored:
        return stored["probability"]
    return grid.frame.with_data(lesions.maps["mask"].astype(np.float32))


def _list_lesions(
    preprocessed: Preprocessed,
    grid: Grid,
    stored: Mapping[str, Volume],
    job: VisitJob,
    *,
    own_ventricles: bool,
) -> VisitLesions:
    """List the lesions of the probabilities or of the given mask."""
    masks = job.masks
    if masks.lesions is not None:
        return list_given_lesions(
            grid,
            masks.lesions,
            stored,
            preprocessed.template_to_flair,
            min_volume=job.min_volume,
            own_ventricles=own_ventricles,
            excluded=masks.excluded,
        )
    if preprocessed.extracerebral is not None:
        stored = {**stored, "extracerebral": preprocessed.extracerebral}
    return find_lesions(
        grid,
        stored,
        preprocessed.template_to_flair,
        threshold=job.threshold,
        min_volume=job.min_volume,
        own_ventricles=own_ventricles,
        excluded=masks.excluded,
    )


def measure_atlases(
    preprocessed: Preprocessed, lesions: Volume, job: VisitJob
) -> tuple[dict[str, tuple[RegionLoad, ...]], tuple[str, ...]]:
    """Measure the lesion load per region of each atlas; return loads and notes."""
    loads: dict[str, tuple[RegionLoad, ...]] = {}
    notes: list[tuple[str, str]] = []
    for choice, atlas in job.atlases:
        step = f"atlas_{choice.name}"
        if choice.space == "T1w" and "T1w" not in preprocessed.transforms:
            notes.append((step, "not used: it needs a T1w"))
            continue
        transform, fault = _transform_to(choice.space, preprocessed, job)
        loads[choice.name] = measure_regions(lesions, atlas, transform)
        notes += [(step, fault), (step, outside_note(choice.name, loads[choice.name]))]
    return loads, tuple(f"{step}: {note}" for step, note in notes if note)


def _transform_to(
    space: str, preprocessed: Preprocessed, job: VisitJob
) -> tuple[Affine | None, str]:
    """Return the affine from FLAIR world to that of a space, and the fault of its fit."""
    if space in NATIVE_SPACES:
        return preprocessed.transforms.get(space), ""
    if space == EMBEDDED:
        return inverse(preprocessed.template_to_flair), ""
    fitted = fit_template(
        preprocessed.images["FLAIR"],
        preprocessed.brain.data > 0,
        name=space,
        threads=job.threads,
        seed=job.seed,
    )
    return inverse(as_stored_affine(fitted.affine)), fitted.fault


def fill_images(
    files: Mapping[str, Path], preprocessed: Preprocessed, segmented: SegmentedVisit, job: VisitJob
) -> dict[str, nib.Nifti1Image]:
    """Fill the lesions of FLAIR and T1w if requested, each image on its own grid."""
    filled: dict[str, nib.Nifti1Image] = {}
    for name in NATIVE_SPACES if job.fill_lesions else ():
        if name not in preprocessed.images:
            continue
        lesions = segmented.lesions.maps["mask"]
        transform: Affine | None = None
        if name in preprocessed.transforms:
            transform = inverse(preprocessed.transforms[name])
            lesions = mask_on_grid(
                Grid.of(files[name]),
                segmented.probability,
                transform=transform,
                threshold=job.threshold,
                min_volume=job.min_volume,
            )
        seed = job.seed
        filled[name] = fill_image(
            files[name], lesions, segmented.anatomy, transform=transform, seed=seed
        )
    return filled
