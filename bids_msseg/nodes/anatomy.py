"""The node that finds this brain's own ventricles and cortex."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import File, traits

from bids_msseg.imaging.register import read_itk_affine
from bids_msseg.imaging.resample import inverse, resample
from bids_msseg.imaging.template import load_template
from bids_msseg.imaging.volume import load_volume, save_volume
from bids_msseg.lesions.anatomy import own_anatomy
from bids_msseg.nodes.base import Step, StepInputs, StepOutputs


class _AnatomyInputs(StepInputs):
    flair_file = File(exists=True, mandatory=True, desc="bias field removed")
    mask_file = File(exists=True, mandatory=True, desc="brain on the FLAIR grid")
    template_transform = File(exists=True, mandatory=True, desc="template world to FLAIR world")
    t1w_file = File(desc="bias field removed")
    t1w_transform = File(desc="FLAIR world to T1w world")
    t2w_file = File(desc="bias field removed")
    t2w_transform = File(desc="FLAIR world to T2w world")


class _AnatomyOutputs(StepOutputs):
    anatomy_file = File(desc="codes of lesions.regions.Anatomy on the FLAIR grid")
    own_ventricles = traits.Bool(desc="whether they are this brain's, or else the template's")


class FindAnatomy(Step):
    """Refine the template's regions; see :func:`bids_msseg.lesions.anatomy.own_anatomy`."""

    input_spec = _AnatomyInputs
    output_spec = _AnatomyOutputs

    def work(self, folder: Path, **inputs: Any) -> dict[str, Any]:
        """Write the map."""
        flair = load_volume(inputs["flair_file"])
        images = {"FLAIR": flair.data}
        for contrast in ("T1w", "T2w"):
            name = contrast.lower()
            if f"{name}_file" in inputs:
                move = read_itk_affine(Path(inputs[f"{name}_transform"]))
                moving = load_volume(inputs[f"{name}_file"])
                moved = resample(moving, flair.shape, flair.affine, transform=move)
                images[contrast] = moved.data
        to_template = inverse(read_itk_affine(Path(inputs["template_transform"])))
        template = load_template()
        prior = resample(
            template.volume.with_data(np.asarray(template.regions)),
            flair.shape,
            flair.affine,
            transform=to_template,
            order=0,
        ).data
        brain = load_volume(inputs["mask_file"]).data > 0
        found = own_anatomy(images, brain, prior, flair.spacing)
        target = folder / "anatomy.nii.gz"
        save_volume(flair.with_data(found.labels), target)
        return {
            "anatomy_file": str(target),
            "own_ventricles": found.from_own_fluid,
            "notes": [found.note] if found.note else [],
        }
