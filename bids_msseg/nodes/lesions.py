"""Nodes that turn probabilities into lesions on the grids that users know."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nipype.interfaces.base import File, traits
from numpy.typing import NDArray

from bids_msseg.imaging.itk import read_itk_affine
from bids_msseg.imaging.resample import inverse
from bids_msseg.imaging.template import load_template
from bids_msseg.imaging.volume import StoredVolumes, load_volume, save_volume
from bids_msseg.nodes.base import Step, StepInputs, StepOutputs
from bids_msseg.pipeline.atlas import load_atlas, measure_regions, outside_note
from bids_msseg.pipeline.filling import fill_image
from bids_msseg.pipeline.lesions import (
    MAPS,
    Grid,
    contrast_on_grid,
    find_lesions,
    mask_on_grid,
)
from bids_msseg.spaces import AtlasChoice

LABEL_MAPS = ("extracerebral", "regions")


class _DelineateInputs(StepInputs):
    flair_file = File(exists=True, mandatory=True, desc="FLAIR as acquired: the grid")
    mask_file = File(exists=True, mandatory=True, desc="brain on the conformed FLAIR")
    probability_file = File(exists=True, mandatory=True)
    candidate_file = File(exists=True, desc="of the cascade; so are the next two")
    lesion_file = File(exists=True)
    candidates_file = File(exists=True)
    template_transform = File(exists=True, mandatory=True, desc="template world to FLAIR world")
    threshold = traits.Float(mandatory=True)
    min_volume = traits.Float(mandatory=True, desc="mm³")
    regions_file = File(desc="this brain's map of regions; the template's where not given")
    own_ventricles = traits.Bool(
        False, usedefault=True, desc="the map's ventricles are this brain's own"
    )
    extracerebral_file = File(desc="where no lesion can be, on the conformed FLAIR")


class _DelineateOutputs(StepOutputs):
    probability_file = File(desc="without extra-cerebral lesions, 1 mm working grid")
    probseg_file = File()
    labels_file = File(desc="lesions 1..n")
    mask_file = File()
    candidates_file = File()
    rejected_file = File(desc="rejected candidates 1..m")
    brain_file = File(desc="brain mask on the FLAIR as acquired")
    ventricles_file = File(desc="lateral and third ventricles that the regions follow")
    table_file = File(desc="JSON: one object a lesion, kept and rejected")


class Delineate(Step):
    """Bring the probabilities onto the FLAIR as acquired and list every lesion there."""

    input_spec = _DelineateInputs
    output_spec = _DelineateOutputs

    def work(self, folder: Path, **inputs: Any) -> dict[str, Any]:
        """Write maps and table."""
        grid = Grid.of(Path(inputs["flair_file"]))
        files = {name: f"{name}_file" for name in (*MAPS, *LABEL_MAPS)}
        found = find_lesions(
            grid,
            StoredVolumes({n: inputs[f] for n, f in files.items() if f in inputs}, LABEL_MAPS),
            read_itk_affine(Path(inputs["template_transform"])),
            threshold=inputs["threshold"],
            min_volume=inputs["min_volume"],
            own_ventricles=inputs["own_ventricles"],
        )
        final = str(inputs["probability_file"])
        if found.cleared is not None:
            final = str(folder / "probability.nii.gz")
            save_volume(found.cleared, final)
        table = folder / "lesions.json"
        table.write_text(json.dumps([asdict(row) for row in found.rows]), encoding="utf-8")
        outputs = _save(folder, grid, found.maps)
        return {**outputs, "table_file": str(table), "probability_file": final}


def _save(folder: Path, grid: Grid, maps: Mapping[str, NDArray[Any]]) -> dict[str, str]:
    outputs = {}
    for name, data in maps.items():
        target = folder / f"{name}.nii.gz"
        # labels beyond 32767 do not happen: a candidate has at least three voxels of a brain
        kind = np.int16 if data.dtype == np.int32 else None
        save_volume(grid.frame.with_data(data), target, dtype=kind)
        outputs[f"{name}_file"] = str(target)
    return outputs


class _GridInputs(StepInputs):
    in_file = File(exists=True, desc="undefined for a contrast that was left out")
    left_out_file = File(exists=True, desc="shown in its stead, blurred")
    reference_file = File(exists=True, mandatory=True, desc="its stored grid is the target")
    transform_file = File(desc="target world to source world")
    brain_file = File(desc="set to zero outside; on the target grid")


class _GridOutputs(StepOutputs):
    out_file = File()


class OntoGrid(Step):
    """Bring a contrast onto the FLAIR as acquired, brain only."""

    input_spec = _GridInputs
    output_spec = _GridOutputs

    def work(self, folder: Path, **inputs: Any) -> dict[str, Any]:
        """Write the image."""
        grid = Grid.of(Path(inputs["reference_file"]))
        move = (
            read_itk_affine(Path(inputs["transform_file"])) if "transform_file" in inputs else None
        )
        left_out = "in_file" not in inputs
        image = load_volume(inputs["left_out_file" if left_out else "in_file"])
        data = contrast_on_grid(grid, image, transform=move, left_out=left_out)
        if "brain_file" in inputs:
            data = np.where(load_volume(inputs["brain_file"]).data > 0, data, np.float32(0))
        target = folder / "on_flair.nii.gz"
        save_volume(grid.frame.with_data(data), target)
        return {"out_file": str(target)}


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
    """Bring the probability into another space and cut it there."""

    input_spec = _SpaceInputs
    output_spec = _SpaceOutputs

    def work(self, folder: Path, **inputs: Any) -> dict[str, Any]:
        """Write the mask; nothing where no transform leads there."""
        move = None
        if "transform_file" in inputs:
            move = read_itk_affine(Path(inputs["transform_file"]))
            move = inverse(move) if inputs["invert"] else move
        elif not inputs["same_world"]:
            return {}
        if "template" in inputs:
            grid = Grid(load_template(inputs["template"], resolution=inputs["resolution"]).volume)
        else:
            grid = Grid.of(Path(inputs["reference_file"]))
        mask = mask_on_grid(
            grid,
            load_volume(inputs["probability_file"]),
            transform=move,
            threshold=inputs["threshold"],
            min_volume=inputs["min_volume"],
        )
        target = folder / "mask.nii.gz"
        save_volume(grid.frame.with_data(mask), target)
        return {"mask_file": str(target)}


class _RegionsInputs(StepInputs):
    labels_file = File(exists=True, mandatory=True, desc="lesions 1..n on the FLAIR as acquired")
    atlas = traits.Str(mandatory=True, desc="as AtlasChoice writes it")
    atlas_file = File(exists=True, desc="where it is a file: another one runs the step again")
    transform_file = File(exists=True, desc="undefined where the contrast was left out")
    invert = traits.Bool(False, usedefault=True, desc="the transform maps atlas to FLAIR world")


class _RegionsOutputs(StepOutputs):
    rows_file = File(desc="JSON: one object per region")


class MeasureRegions(Step):
    """Share out the lesions among the regions of an atlas."""

    input_spec = _RegionsInputs
    output_spec = _RegionsOutputs

    def work(self, folder: Path, **inputs: Any) -> dict[str, Any]:
        """Write a row per region; nothing where no transform leads to the atlas."""
        choice = AtlasChoice.parse(inputs["atlas"])
        if choice.space != "FLAIR" and "transform_file" not in inputs:
            return {}
        move = None
        if "transform_file" in inputs:
            move = read_itk_affine(Path(inputs["transform_file"]))
            move = inverse(move) if inputs["invert"] else move
        lesions = load_volume(inputs["labels_file"], np.int32)
        rows = measure_regions(lesions, load_atlas(choice), move)
        target = folder / "regions.json"
        content = [{"atlas": choice.name, **asdict(row)} for row in rows]
        target.write_text(json.dumps(content), encoding="utf-8")
        note = outside_note(choice.name, rows)
        return {"rows_file": str(target), "notes": [note] if note else []}


class _FillInputs(StepInputs):
    image_file = File(exists=True, mandatory=True, desc="as acquired")
    mask_file = File(exists=True, desc="lesions on its grid; undefined where it was left out")
    anatomy_file = File(exists=True, mandatory=True, desc="classes on the 1 mm working grid")
    transform_file = File(exists=True, desc="FLAIR world to that of the image")
    seed = traits.Int(0, usedefault=True)


class _FillOutputs(StepOutputs):
    out_file = File(desc="the image with filled lesions")


class FillLesions(Step):
    """Give lesions the intensities of the white matter around them."""

    input_spec = _FillInputs
    output_spec = _FillOutputs

    def work(self, folder: Path, **inputs: Any) -> dict[str, Any]:
        """Write the image; nothing for a contrast that was left out."""
        if "mask_file" not in inputs:
            return {}
        move = None
        if "transform_file" in inputs:
            move = inverse(read_itk_affine(Path(inputs["transform_file"])))
        filled = fill_image(
            Path(inputs["image_file"]),
            load_volume(inputs["mask_file"], np.uint8).data,
            load_volume(inputs["anatomy_file"], np.uint8),
            transform=move,
            seed=inputs["seed"],
        )
        target = folder / "filled.nii.gz"
        nib.save(filled, target)
        return {"out_file": str(target)}
