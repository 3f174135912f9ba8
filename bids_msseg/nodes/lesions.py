"""Nodes that derive lesions from probabilities, on the grids of the outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nipype.interfaces.base import File, traits
from numpy.typing import NDArray

from bids_msseg.imaging.registration.itk import read_itk_affine
from bids_msseg.imaging.resample import inverse
from bids_msseg.imaging.template import load_template
from bids_msseg.imaging.volume import Affine, StoredVolumes, load_volume, save_volume
from bids_msseg.lesions.regions import near
from bids_msseg.nodes.base import Step, StepInputs, StepOutputs, save_json
from bids_msseg.pipeline.atlas import load_atlas, measure_regions, outside_note
from bids_msseg.pipeline.filling import fill_image
from bids_msseg.pipeline.given_masks import (
    outside_brain_note,
    read_exclusion_masks,
    read_given_mask,
)
from bids_msseg.pipeline.lesions import (
    MAPS,
    Grid,
    VisitLesions,
    contrast_on_grid,
    find_lesions,
    list_given_lesions,
    mask_on_grid,
)
from bids_msseg.spaces import AtlasChoice

LABEL_MAPS = ("extracerebral", "regions")
GREY_LEVELS = 1023
"""Of an image for figures, up to its bright voxels; it is stored among intermediate results."""


class _LesionInputs(StepInputs):
    flair_file = File(exists=True, mandatory=True, desc="FLAIR as acquired: the grid")
    mask_file = File(exists=True, mandatory=True, desc="brain on the conformed FLAIR")
    template_transform = File(exists=True, mandatory=True, desc="template world to FLAIR world")
    min_volume = traits.Float(mandatory=True, desc="mm³")
    regions_file = File(desc="this brain's map of regions; the template's where not given")
    own_ventricles = traits.Bool(
        False, usedefault=True, desc="the map's ventricles are this brain's own"
    )
    exclusion_files = traits.List(traits.Str, desc="exclusion masks on the grid of the FLAIR")


class _LesionOutputs(StepOutputs):
    probability_file = File(desc="from which lesions are cut in other spaces")
    labels_file = File(desc="lesions 1..n")
    mask_file = File()
    rejected_file = File(desc="rejected candidates, 1..m")
    brain_file = File(desc="brain mask on the FLAIR as acquired")
    ventricles_file = File(desc="lateral and third ventricles that the regions follow")
    table_file = File(desc="JSON: one object per lesion or rejected candidate")
    excluded_ml = traits.Float(desc="lesion that exclusion masks took; undefined without them")


class _DelineateInputs(_LesionInputs):
    probability_file = File(exists=True, mandatory=True)
    candidate_file = File(exists=True, desc="probability of CNN-1; only of the cascade")
    lesion_file = File(exists=True, desc="probability of CNN-2; only of the cascade")
    candidates_file = File(exists=True, desc="candidate voxels; only of the cascade")
    threshold = traits.Float(mandatory=True)
    extracerebral_file = File(desc="where no lesion can be, on the conformed FLAIR")


class _DelineateOutputs(_LesionOutputs):
    probseg_file = File()
    candidates_file = File()


class Delineate(Step):
    """Resample the probabilities to the FLAIR as acquired and list every lesion there."""

    input_spec = _DelineateInputs
    output_spec = _DelineateOutputs

    def work(self, folder: Path, **inputs: Any) -> dict[str, Any]:
        """Write maps and table."""
        grid = Grid.of(Path(inputs["flair_file"]))
        excluded, notes = _excluded(grid, inputs)
        visit_lesions = find_lesions(
            grid,
            _stored(inputs, *MAPS, *LABEL_MAPS),
            read_itk_affine(Path(inputs["template_transform"])),
            threshold=inputs["threshold"],
            min_volume=inputs["min_volume"],
            own_ventricles=inputs["own_ventricles"],
            excluded=excluded,
        )
        final = str(inputs["probability_file"])
        if visit_lesions.cleared is not None:
            final = str(folder / "probability.nii.gz")
            save_volume(visit_lesions.cleared, final)
        return {
            **_save(folder, grid, visit_lesions),
            "probability_file": final,
            "notes": list(notes),
        }


class _GivenInputs(_LesionInputs):
    lesion_file = File(mandatory=True, desc="given lesion mask, on the grid of the FLAIR")
    values = traits.List(traits.Int, desc="of the mask that are lesion; else any above zero")


class _GivenOutputs(_LesionOutputs):
    estimate_file = File(desc="JSON: why there is no interval of the load")


class TakeGivenMask(Step):
    """List the lesions of a mask that replaces the networks."""

    input_spec = _GivenInputs
    output_spec = _GivenOutputs

    def work(self, folder: Path, **inputs: Any) -> dict[str, Any]:
        """Write maps and table."""
        grid, values = Grid.of(Path(inputs["flair_file"])), inputs.get("values")
        lesions, note = read_given_mask(
            Path(inputs["lesion_file"]),
            grid,
            what="lesion mask",
            values=tuple(values) if values else None,
        )
        excluded, excluded_notes = _excluded(grid, inputs)
        visit_lesions = list_given_lesions(
            grid,
            lesions,
            _stored(inputs, "mask", "regions"),
            read_itk_affine(Path(inputs["template_transform"])),
            min_volume=inputs["min_volume"],
            own_ventricles=inputs["own_ventricles"],
            excluded=excluded,
        )
        probability = folder / "probability.nii.gz"
        estimate = {"reason": "the lesion mask was given, so there is no probability"}
        outside = outside_brain_note(lesions, visit_lesions.maps["brain"])
        soft = visit_lesions.maps["mask"].astype(np.float32)
        save_volume(grid.frame.with_data(soft), probability)
        return {
            **_save(folder, grid, visit_lesions),
            "estimate_file": save_json(folder / "estimate.json", estimate),
            "probability_file": str(probability),
            "notes": [text for text in (note, outside, *excluded_notes) if text],
        }


def _stored(inputs: Mapping[str, Any], *names: str) -> StoredVolumes:
    """Return the available maps, which are read when they are accessed."""
    files = {name: inputs[f"{name}_file"] for name in names if f"{name}_file" in inputs}
    return StoredVolumes(files, LABEL_MAPS)


def _excluded(
    grid: Grid, inputs: Mapping[str, Any]
) -> tuple[NDArray[np.bool_] | None, tuple[str, ...]]:
    """Read the exclusion masks; return None without any, and notes."""
    files = inputs.get("exclusion_files")
    return read_exclusion_masks([Path(file) for file in files], grid) if files else (None, ())


def _save(folder: Path, grid: Grid, lesions: VisitLesions) -> dict[str, Any]:
    """Write maps and table."""
    table = [asdict(row) for row in lesions.rows]
    outputs: dict[str, Any] = {"table_file": save_json(folder / "lesions.json", table)}
    for name, data in lesions.maps.items():
        target = folder / f"{name}.nii.gz"
        # specks of a given mask may be more than 32767
        small = data.dtype == np.int32 and data.max(initial=0) <= np.iinfo(np.int16).max
        save_volume(grid.frame.with_data(data), target, dtype=np.int16 if small else None)
        outputs[f"{name}_file"] = str(target)
    if lesions.excluded_ml is not None:
        outputs["excluded_ml"] = lesions.excluded_ml
    return outputs


def _transform(inputs: Mapping[str, Any], *, invert: bool = False) -> Affine | None:
    """Read the transform of a step; return None if it has none."""
    if "transform_file" not in inputs:
        return None
    move = read_itk_affine(Path(inputs["transform_file"]))
    return inverse(move) if invert else move


class _GridInputs(StepInputs):
    in_file = File(exists=True, desc="undefined for a contrast that was left out")
    left_out_file = File(exists=True, desc="contrast that was left out; shown blurred")
    reference_file = File(exists=True, mandatory=True, desc="its stored grid is the target")
    transform_file = File(desc="target world to source world")
    mask_file = File(desc="brain on the conformed FLAIR: zero where there is none")
    rim_mm = traits.Float(0.0, usedefault=True, desc="shown around the brain")


class _ImageOutputs(StepOutputs):
    out_file = File()


class OntoGrid(Step):
    """Resample a contrast to the FLAIR as acquired: the brain, for figures with a rim."""

    input_spec = _GridInputs
    output_spec = _ImageOutputs

    def work(self, folder: Path, **inputs: Any) -> dict[str, Any]:
        """Write the image."""
        grid = Grid.of(Path(inputs["reference_file"]))
        left_out = "in_file" not in inputs
        image = load_volume(inputs["left_out_file" if left_out else "in_file"])
        data = contrast_on_grid(grid, image, transform=_transform(inputs), left_out=left_out)
        if "mask_file" in inputs:
            inside = grid.take(load_volume(inputs["mask_file"])) >= 0.5
            shown = near(inside, inputs["rim_mm"], grid.frame.spacing)
            data = np.where(shown, data, np.float32(0))
        stored: NDArray[Any] = _in_levels(data) if inputs["rim_mm"] else data
        target = folder / "on_flair.nii.gz"
        save_volume(grid.frame.with_data(stored), target)
        return {"out_file": str(target)}


def _in_levels(data: NDArray[np.float32]) -> NDArray[np.int16]:
    """Round to grey levels, which suffice for figures and keep little of the noise."""
    bright = float(np.percentile(data[data > 0], 99.9)) if (data > 0).any() else 1.0
    most = np.iinfo(np.int16).max
    levels = np.clip(np.rint(data * (GREY_LEVELS / bright)), 0, most)
    return np.asarray(levels, np.int16)


class _SpaceInputs(StepInputs):
    probability_file = File(exists=True, mandatory=True)
    threshold = traits.Float(mandatory=True)
    min_volume = traits.Float(mandatory=True, desc="mm³")
    reference_file = File(desc="image whose stored grid it is, where it is not a template's")
    template = traits.Str(desc="name of a template, for a template space")
    resolution = traits.Int(1, usedefault=True)
    transform_file = File(exists=True, desc="undefined where the contrast was left out")
    invert = traits.Bool(False, usedefault=True, desc="the transform maps source to target world")
    same_world = traits.Bool(False, usedefault=True, desc="that of the FLAIR: no transform")


class _SpaceOutputs(StepOutputs):
    mask_file = File()


class MaskInSpace(Step):
    """Resample the probability to another space and threshold it there."""

    input_spec = _SpaceInputs
    output_spec = _SpaceOutputs

    def work(self, folder: Path, **inputs: Any) -> dict[str, Any]:
        """Write the mask; write nothing if no transform leads to the space."""
        if "transform_file" not in inputs and not inputs["same_world"]:
            return {}
        if "template" in inputs:
            grid = Grid(load_template(inputs["template"], resolution=inputs["resolution"]).volume)
        else:
            grid = Grid.of(Path(inputs["reference_file"]))
        mask = mask_on_grid(
            grid,
            load_volume(inputs["probability_file"]),
            transform=_transform(inputs, invert=inputs["invert"]),
            threshold=inputs["threshold"],
            min_volume=inputs["min_volume"],
        )
        target = folder / "mask.nii.gz"
        save_volume(grid.frame.with_data(mask), target)
        return {"mask_file": str(target)}


class _RegionsInputs(StepInputs):
    labels_file = File(exists=True, mandatory=True, desc="lesions 1..n on the FLAIR as acquired")
    atlas = traits.Str(mandatory=True, desc="as AtlasChoice writes it")
    atlas_file = File(exists=True, desc="if the atlas is a file; a new file runs the step again")
    transform_file = File(exists=True, desc="undefined where the contrast was left out")
    invert = traits.Bool(False, usedefault=True, desc="the transform maps atlas to FLAIR world")


class _RegionsOutputs(StepOutputs):
    rows_file = File(desc="JSON: one object per region")


class MeasureRegions(Step):
    """Measure the lesions in the regions of an atlas."""

    input_spec = _RegionsInputs
    output_spec = _RegionsOutputs

    def work(self, folder: Path, **inputs: Any) -> dict[str, Any]:
        """Write a row per region; write nothing if no transform leads to the atlas."""
        choice = AtlasChoice.parse(inputs["atlas"])
        if choice.space != "FLAIR" and "transform_file" not in inputs:
            return {}
        move = _transform(inputs, invert=inputs["invert"])
        lesions = load_volume(inputs["labels_file"], np.int32)
        rows = measure_regions(lesions, load_atlas(choice), move)
        table = [{"atlas": choice.name, **asdict(row)} for row in rows]
        note = outside_note(choice.name, rows)
        rows_file = save_json(folder / "regions.json", table)
        return {"rows_file": rows_file, "notes": [note] if note else []}


class _FillInputs(StepInputs):
    image_file = File(exists=True, mandatory=True, desc="as acquired")
    mask_file = File(exists=True, desc="lesions on its grid; undefined where it was left out")
    anatomy_file = File(exists=True, mandatory=True, desc="classes on the 1 mm working grid")
    transform_file = File(exists=True, desc="FLAIR world to that of the image")
    seed = traits.Int(0, usedefault=True)


class FillLesions(Step):
    """Fill lesions with the intensities of the white matter around them."""

    input_spec = _FillInputs
    output_spec = _ImageOutputs

    def work(self, folder: Path, **inputs: Any) -> dict[str, Any]:
        """Write the image; nothing for a contrast that was left out."""
        if "mask_file" not in inputs:
            return {}
        filled = fill_image(
            Path(inputs["image_file"]),
            load_volume(inputs["mask_file"], np.uint8).data,
            load_volume(inputs["anatomy_file"], np.uint8),
            transform=_transform(inputs, invert=True),
            seed=inputs["seed"],
        )
        target = folder / "filled.nii.gz"
        nib.save(filled, target)
        return {"out_file": str(target)}
