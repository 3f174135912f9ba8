"""The node that runs the cascade."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import File, traits
from numpy.typing import NDArray

from bids_msseg.imaging.normalise import Stack
from bids_msseg.imaging.volume import Volume, save_volume
from bids_msseg.nodes.base import Step, StepInputs, StepOutputs


class _SegmentInputs(StepInputs):
    stack_file = File(exists=True, mandatory=True)
    model_file = File(exists=True, mandatory=True)
    fast = traits.Bool(False, usedefault=True)
    device = traits.Str("auto", usedefault=True)


class _SegmentOutputs(StepOutputs):
    probability_file = File(desc="final probability, 1 mm working grid")
    candidate_file = File(desc="CNN-1's probability")
    lesion_file = File(desc="CNN-2's lesion probability of each candidate")
    candidates_file = File(desc="voxels that passed the gate")


class Segment(Step):
    """Run both networks on a stack; torch is loaded when the node runs, not before."""

    input_spec = _SegmentInputs
    output_spec = _SegmentOutputs

    def work(self, folder: Path, **inputs: Any) -> dict[str, Any]:
        """Write the four maps."""
        import torch

        from bids_msseg.cascade.checkpoint import load_cascade
        from bids_msseg.cascade.inference import segment
        from bids_msseg.models.engine import choose_engine

        torch.set_num_threads(inputs["threads"])
        stack = Stack.load(Path(inputs["stack_file"]))
        cascade = load_cascade(Path(inputs["model_file"]))
        engine = choose_engine(inputs["device"])
        found = segment(
            cascade, stack.data, stack.present, stack.brain, engine, fast=inputs["fast"]
        )
        maps: dict[str, NDArray[Any]] = {
            "probability_file": found.probability,
            "candidate_file": found.candidate,
            "lesion_file": found.lesion,
            "candidates_file": found.candidates.astype(np.uint8),
        }
        outputs: dict[str, Any] = {}
        for name, data in maps.items():
            target = folder / f"{name.removesuffix('_file')}.nii.gz"
            save_volume(Volume(data, stack.affine), target)
            outputs[name] = str(target)
        return outputs
