"""The node that runs the cascade."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nipype.interfaces.base import File, traits

from bids_msseg.imaging.normalise import Stack
from bids_msseg.imaging.volume import save_volume
from bids_msseg.nodes.base import Step, StepInputs, StepOutputs
from bids_msseg.pipeline.segment import segment_stack


class _SegmentInputs(StepInputs):
    stack_file = File(exists=True, mandatory=True)
    model_file = File(exists=True, mandatory=True)
    fast = traits.Bool(False, usedefault=True)
    device = traits.Str("auto", usedefault=True)


class _SegmentOutputs(StepOutputs):
    probability_file = File(desc="final probability, 1 mm working grid")
    candidate_file = File(desc="CNN-1's probability")
    lesion_file = File(desc="CNN-2's lesion probability of each candidate")
    candidates_file = File(desc="voxels that reached the candidate threshold")
    anatomy_file = File(desc="classes of models.anatomy.Anatomy")


class Segment(Step):
    """Run both networks on a stack; torch is loaded when the node runs, not before."""

    input_spec = _SegmentInputs
    output_spec = _SegmentOutputs

    def work(self, folder: Path, **inputs: Any) -> dict[str, Any]:
        """Write the maps."""
        import torch

        torch.set_num_threads(inputs["threads"])
        stack = Stack.load(Path(inputs["stack_file"]))
        maps = segment_stack(
            stack, Path(inputs["model_file"]), device=inputs["device"], fast=inputs["fast"]
        )
        targets = {name: str(folder / f"{name}.nii.gz") for name in maps}
        for name, volume in maps.items():
            save_volume(volume, targets[name])
        return {f"{name}_file": target for name, target in targets.items()}
