"""The node that finds this brain's own ventricles and cortex."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nipype.interfaces.base import File, traits

from bids_msseg.imaging.itk import read_itk_affine
from bids_msseg.imaging.volume import load_volume, save_volume
from bids_msseg.nodes.base import Step, StepInputs, StepOutputs
from bids_msseg.nodes.preprocess import contrast_files, contrast_transforms
from bids_msseg.pipeline.lesions import find_anatomy


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
        labels, found = find_anatomy(
            contrast_files(inputs),
            contrast_transforms(inputs),
            load_volume(inputs["mask_file"]).data > 0,
            read_itk_affine(Path(inputs["template_transform"])),
        )
        target = folder / "anatomy.nii.gz"
        save_volume(labels, target)
        return {
            "anatomy_file": str(target),
            "own_ventricles": found.from_own_fluid,
            "notes": [found.note] if found.note else [],
        }
