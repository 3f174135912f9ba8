"""Nodes that find this brain's own ventricles and cortex, and measure its anatomy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import File, traits

from bids_msseg.imaging.registration.itk import read_itk_affine
from bids_msseg.imaging.volume import load_volume, save_volume
from bids_msseg.nodes.base import Step, StepInputs, StepOutputs, save_json
from bids_msseg.nodes.preprocess import ContrastInputs, contrast_files, contrast_transforms
from bids_msseg.pipeline.anatomy import measure_brain
from bids_msseg.pipeline.lesions import Grid, find_anatomy


class _AnatomyInputs(ContrastInputs):  # bias fields removed
    template_transform = File(exists=True, mandatory=True, desc="template world to FLAIR world")


class _AnatomyOutputs(StepOutputs):
    regions_file = File(desc="codes of lesions.regions.RegionAnatomy on the FLAIR grid")
    own_ventricles = traits.Bool(desc="whether they are this brain's, or else the template's")


class FindAnatomy(Step):
    """Refine the template's regions; see :func:`bids_msseg.lesions.anatomy.own_anatomy`."""

    input_spec = _AnatomyInputs
    output_spec = _AnatomyOutputs

    def work(self, folder: Path, **inputs: Any) -> dict[str, Any]:
        """Write the map of regions."""
        labels, anatomy = find_anatomy(
            contrast_files(inputs),
            contrast_transforms(inputs),
            load_volume(inputs["mask_file"]).data > 0,
            read_itk_affine(Path(inputs["template_transform"])),
        )
        target = folder / "regions.nii.gz"
        save_volume(labels, target)
        return {
            "regions_file": str(target),
            "own_ventricles": anatomy.from_own_fluid,
            "notes": [anatomy.note] if anatomy.note else [],
        }


class _VolumesInputs(StepInputs):
    anatomy_file = File(exists=True, mandatory=True, desc="classes on the 1 mm working grid")
    flair_file = File(exists=True, mandatory=True, desc="FLAIR as acquired: the grid")
    template_transform = File(exists=True, mandatory=True, desc="template world to FLAIR world")
    trusted = traits.Bool(mandatory=True, desc="whether the transform passed its checks")


class _VolumesOutputs(StepOutputs):
    anatomy_file = File(desc="classes on the FLAIR as acquired")
    volumes_file = File(desc="JSON: mL of every class, and what of it is implausible")


class MeasureBrain(Step):
    """Measure the anatomy on the FLAIR as acquired."""

    input_spec = _VolumesInputs
    output_spec = _VolumesOutputs

    def work(self, folder: Path, **inputs: Any) -> dict[str, Any]:
        """Write the label map and the volumes; implausible values are also noted."""
        grid = Grid.of(Path(inputs["flair_file"]))
        move = read_itk_affine(Path(inputs["template_transform"])) if inputs["trusted"] else None
        measured = measure_brain(load_volume(inputs["anatomy_file"], np.uint8), grid, move)
        image = folder / "anatomy.nii.gz"
        save_volume(grid.frame.with_data(measured.labels), image)
        ml = {int(label): volume for label, volume in measured.volumes.ml.items()}
        content = {"ml": ml, "implausible": measured.implausible}
        return {
            "anatomy_file": str(image),
            "volumes_file": save_json(folder / "volumes.json", content),
            "notes": [measured.note] if measured.note else [],
        }
