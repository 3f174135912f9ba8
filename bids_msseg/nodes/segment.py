"""The nodes that find lesions: the cascade, or another segmenter in its place."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from nipype.interfaces.base import File, traits

from bids_msseg.imaging.normalise import Stack
from bids_msseg.imaging.volume import load_volume, save_volume
from bids_msseg.nodes.base import Step, StepInputs, StepOutputs
from bids_msseg.nodes.preprocess import ContrastInputs, contrast_files, contrast_transforms
from bids_msseg.pipeline.segment import segment_stack
from bids_msseg.segmenters.base import Segmenter
from bids_msseg.segmenters.images import write_images
from bids_msseg.segmenters.programs import LOG_FILE


class _SegmentInputs(StepInputs):
    stack_file = File(exists=True, mandatory=True)
    model_file = File(exists=True, mandatory=True)
    fast = traits.Bool(False, usedefault=True)
    anatomy_only = traits.Bool(False, usedefault=True, desc="lesions come from elsewhere")
    device = traits.Str("auto", usedefault=True)


class _SegmentOutputs(StepOutputs):
    probability_file = File(desc="final probability, 1 mm working grid")
    candidate_file = File(desc="CNN-1's probability")
    lesion_file = File(desc="CNN-2's lesion probability of each candidate")
    candidates_file = File(desc="voxels that reached the candidate threshold")
    anatomy_file = File(desc="classes of models.anatomy.Anatomy")


class Segment(Step):
    """Run the networks on a stack; torch is loaded when the node runs, not before."""

    input_spec = _SegmentInputs
    output_spec = _SegmentOutputs

    def work(self, folder: Path, **inputs: Any) -> dict[str, Any]:
        """Write the maps."""
        import torch

        torch.set_num_threads(inputs["threads"])
        stack = Stack.load(Path(inputs["stack_file"]))
        options = {name: inputs[name] for name in ("device", "fast", "anatomy_only")}
        maps = segment_stack(stack, Path(inputs["model_file"]), **options)
        targets = {name: str(folder / f"{name}.nii.gz") for name in maps}
        for name, volume in maps.items():
            save_volume(volume, targets[name])
        return {f"{name}_file": target for name, target in targets.items()}


class _OtherInputs(ContrastInputs):  # bias fields removed
    segmenter = traits.Any(mandatory=True, nohash=True)
    digest = traits.Str(mandatory=True, desc="of the segmenter; a new digest runs the step again")
    device = traits.Str("auto", usedefault=True)


class _OtherOutputs(StepOutputs):
    probability_file = File(desc="1 mm grid along the axes of the FLAIR")
    log_file = File(desc="what it printed")


class SegmentByOther(Step):
    """Find the lesions with another segmenter; see :mod:`bids_msseg.segmenters`."""

    input_spec = _OtherInputs
    output_spec = _OtherOutputs

    def work(self, folder: Path, **inputs: Any) -> dict[str, Any]:
        """Write the probability; remove the segmenter's input images and keep its log."""
        segmenter: Segmenter = inputs["segmenter"]
        # the result of an earlier attempt must not be used
        shutil.rmtree(folder / "images", ignore_errors=True)
        images = write_images(
            contrast_files(inputs),
            load_volume(inputs["mask_file"]),
            contrast_transforms(inputs),
            folder / "images",
            whole_head=segmenter.whole_head,
        )
        probability = segmenter.segment(images, threads=inputs["threads"], device=inputs["device"])
        target, log = folder / "probability.nii.gz", folder / LOG_FILE
        save_volume(probability, target)
        (images.folder / LOG_FILE).replace(log)
        shutil.rmtree(images.folder, ignore_errors=True)
        return {"probability_file": str(target), "log_file": str(log)}
