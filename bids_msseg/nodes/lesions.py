"""Nodes that turn probabilities into lesions on the grids that users know."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import File, traits
from numpy.typing import NDArray

from bids_msseg.imaging.conform import check_header
from bids_msseg.imaging.register import read_itk_affine
from bids_msseg.imaging.resample import (
    inverse,
    mask_onto,
    resample,
    smooth_before_coarser,
)
from bids_msseg.imaging.template import load_template
from bids_msseg.imaging.volume import Affine, Volume, load_volume, save_volume
from bids_msseg.lesions.delineate import Delineation, clear_extracerebral, delineate
from bids_msseg.lesions.load import LesionRow, lesion_table
from bids_msseg.lesions.regions import (
    OWN_PERIVENTRICULAR_MM,
    PERIVENTRICULAR_MM,
    Anatomy,
    region_map,
)
from bids_msseg.nodes.base import Step, StepInputs, StepOutputs

LEFT_OUT_BLUR_MM = 6.0
"""An image that could not be aligned may show a face where the brain should be."""


class _DelineateInputs(StepInputs):
    flair_file = File(exists=True, mandatory=True, desc="FLAIR as acquired: the grid")
    mask_file = File(exists=True, mandatory=True, desc="brain on the conformed FLAIR")
    probability_file = File(exists=True, mandatory=True)
    candidate_file = File(exists=True, mandatory=True)
    lesion_file = File(exists=True, mandatory=True)
    candidates_file = File(exists=True, mandatory=True)
    template_transform = File(exists=True, mandatory=True, desc="template world to FLAIR world")
    threshold = traits.Float(mandatory=True)
    min_volume = traits.Float(mandatory=True, desc="mm³")
    anatomy_file = File(desc="this brain's map of regions; the template's where not given")
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
        grid = _Grid.of(Path(inputs["flair_file"]))
        maps = {
            name: grid.take(load_volume(inputs[f"{name}_file"]))
            for name in ("probability", "candidate", "lesion", "candidates", "mask")
        }
        brain = maps["mask"] >= 0.5
        cleared = _cleared(folder, inputs)
        probability = maps["probability"]
        if cleared is not None:
            probability = grid.take(load_volume(cleared))
        extracerebral: NDArray[np.bool_] | None = None
        if "extracerebral_file" in inputs:
            extracerebral = grid.take(load_volume(inputs["extracerebral_file"])) >= 0.5
        found = delineate(
            probability,
            # what was cleared stays a candidate
            (maps["candidates"] >= 0.5) | (maps["probability"] >= inputs["threshold"]),
            voxel_volume=grid.frame.voxel_volume,
            threshold=inputs["threshold"],
            min_volume=inputs["min_volume"],
            extracerebral=extracerebral,
        )
        to_flair = read_itk_affine(Path(inputs["template_transform"]))
        anatomy = _anatomy(grid, inverse(to_flair), inputs)
        where = _regions(anatomy, grid, own=inputs["own_ventricles"])
        rows = _rows(found, grid, maps, inverse(to_flair), where)
        outputs = _save(
            folder,
            grid,
            {
                "probseg": np.clip(probability, 0, 1),
                "labels": found.lesions,
                "mask": (found.lesions > 0).astype(np.uint8),
                "candidates": (
                    (maps["candidates"] >= 0.5) | (found.lesions > 0) | (found.rejected > 0)
                ).astype(np.uint8),
                "rejected": found.rejected,
                "brain": brain.astype(np.uint8),
                "ventricles": (anatomy == Anatomy.VENTRICLE).astype(np.uint8),
            },
        )
        table = folder / "lesions.json"
        table.write_text(json.dumps([asdict(row) for row in rows]), encoding="utf-8")
        final = str(cleared or inputs["probability_file"])
        return {**outputs, "table_file": str(table), "probability_file": final}


def _cleared(folder: Path, inputs: dict[str, Any]) -> Path | None:
    """Write the probability without extra-cerebral lesions; None where there are none."""
    if "extracerebral_file" not in inputs:
        return None
    source = load_volume(inputs["probability_file"])
    outside = load_volume(inputs["extracerebral_file"], np.uint8)
    cleared = clear_extracerebral(
        source.data,
        mask_onto(outside, source.shape, source.affine),
        threshold=inputs["threshold"],
    )
    if cleared is source.data:
        return None
    target = folder / "probability.nii.gz"
    save_volume(source.with_data(cleared), target)
    return target


class _Grid:
    """The voxel grid of a file, which need not be in RAS order."""

    def __init__(self, frame: Volume) -> None:
        self.frame = frame

    @classmethod
    def of(cls, path: Path) -> _Grid:
        """Read the grid of a file from its header."""
        info = check_header(path)
        return cls(Volume(np.broadcast_to(np.zeros(1, np.uint8), info.shape), info.affine))

    def take(
        self, volume: Volume, *, transform: Affine | None = None, order: int = 1
    ) -> NDArray[Any]:
        """Resample a volume onto this grid."""
        moved: NDArray[Any] = resample(
            volume, self.frame.shape, self.frame.affine, transform=transform, order=order
        ).data
        return moved


def _anatomy(grid: _Grid, to_template: Affine, inputs: dict[str, Any]) -> NDArray[np.uint8]:
    """Bring this brain's map of regions, or else the template's, onto the grid."""
    if "anatomy_file" in inputs:
        return grid.take(load_volume(inputs["anatomy_file"], np.uint8), order=0)
    template = load_template()
    regions = template.volume.with_data(np.asarray(template.regions))
    return grid.take(regions, transform=to_template, order=0)


def _regions(anatomy: NDArray[np.uint8], grid: _Grid, *, own: bool) -> NDArray[np.int8]:
    reach = OWN_PERIVENTRICULAR_MM if own else PERIVENTRICULAR_MM
    return region_map(anatomy, grid.frame.spacing, periventricular_mm=reach, neighbours=own)


def _rows(
    found: Delineation,
    grid: _Grid,
    maps: dict[str, NDArray[Any]],
    to_template: Affine,
    where: NDArray[np.int8],
) -> list[LesionRow]:
    """List kept lesions, then rejected candidates."""
    rows: list[LesionRow] = []
    reasons = dict(enumerate(found.reasons, start=1))
    for labels, status in ((found.lesions, "kept"), (found.rejected, "rejected")):
        rows += lesion_table(
            labels,
            grid.frame.affine,
            p_candidate=maps["candidate"],
            p_refined=maps["probability"],
            p_lesion=_means(labels, maps["lesion"]),
            region_map=where,
            template_affine=to_template,
            status="kept" if status == "kept" else "rejected",
            reasons=None if status == "kept" else reasons,
        )
    return rows


def _means(labels: NDArray[np.int32], values: NDArray[Any]) -> list[float]:
    """Mean over those voxels of each label that belong to a candidate."""
    inside = values > 0
    count = int(labels.max(initial=0)) + 1
    total = np.bincount(labels[inside], values[inside], minlength=count)
    size = np.bincount(labels[inside], minlength=count)
    return [float(value) for value in (total / np.maximum(size, 1))[1:]]


def _save(folder: Path, grid: _Grid, maps: dict[str, NDArray[Any]]) -> dict[str, str]:
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
        grid = _Grid.of(Path(inputs["reference_file"]))
        move = (
            read_itk_affine(Path(inputs["transform_file"])) if "transform_file" in inputs else None
        )
        if "in_file" in inputs:
            image = load_volume(inputs["in_file"])
        else:
            image = load_volume(inputs["left_out_file"])
            image = smooth_before_coarser(image, LEFT_OUT_BLUR_MM)
        data = grid.take(image, transform=move)
        if "brain_file" in inputs:
            data = np.where(load_volume(inputs["brain_file"]).data > 0, data, np.float32(0))
        target = folder / "on_flair.nii.gz"
        save_volume(grid.frame.with_data(data), target)
        return {"out_file": str(target)}


class _SpaceInputs(StepInputs):
    probability_file = File(exists=True, mandatory=True)
    threshold = traits.Float(mandatory=True)
    min_volume = traits.Float(mandatory=True, desc="mm³")
    reference_file = File(desc="image as acquired, for a native space")
    template = traits.Str(desc="name of a template, for a template space")
    resolution = traits.Int(1, usedefault=True)
    transform_file = File(exists=True, desc="undefined where the contrast was left out")
    invert = traits.Bool(False, usedefault=True, desc="the transform maps source to target world")


class _SpaceOutputs(StepOutputs):
    mask_file = File()


class MaskInSpace(Step):
    """Bring the probability into another space and cut it there."""

    input_spec = _SpaceInputs
    output_spec = _SpaceOutputs

    def work(self, folder: Path, **inputs: Any) -> dict[str, Any]:
        """Write the mask; nothing where no transform leads there."""
        if "transform_file" not in inputs:
            return {}
        if "template" in inputs:
            grid = _Grid(load_template(inputs["template"], resolution=inputs["resolution"]).volume)
        else:
            grid = _Grid.of(Path(inputs["reference_file"]))
        move = read_itk_affine(Path(inputs["transform_file"]))
        move = inverse(move) if inputs["invert"] else move
        probability = grid.take(load_volume(inputs["probability_file"]), transform=move)
        found = delineate(
            probability,
            np.zeros(probability.shape, bool),
            voxel_volume=grid.frame.voxel_volume,
            threshold=inputs["threshold"],
            min_volume=inputs["min_volume"],
        )
        target = folder / "mask.nii.gz"
        save_volume(grid.frame.with_data((found.lesions > 0).astype(np.uint8)), target)
        return {"mask_file": str(target)}
