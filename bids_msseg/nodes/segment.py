"""The node that runs the cascade."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from nipype.interfaces.base import File, traits
from numpy.typing import NDArray

from bids_msseg.imaging.normalise import Stack
from bids_msseg.imaging.volume import Volume, save_volume
from bids_msseg.nodes.base import Step, StepInputs, StepOutputs

if TYPE_CHECKING:
    from bids_msseg.cascade.inference import Segmentation
    from bids_msseg.models.cascade import CascadeResult
    from bids_msseg.models.engine import Engine


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

        from bids_msseg.models.engine import choose_engine

        torch.set_num_threads(inputs["threads"])
        stack = Stack.load(Path(inputs["stack_file"]))
        engine = choose_engine(inputs["device"])
        found = _segment(Path(inputs["model_file"]), stack, engine, fast=inputs["fast"])
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


def _segment(
    model: Path, stack: Stack, engine: Engine, *, fast: bool
) -> Segmentation | CascadeResult:
    """Run the kind of cascade that the weights hold."""
    from bids_msseg.models.weights import ANATOMY_FORMAT, read_header

    if read_header(model).format != ANATOMY_FORMAT:
        from bids_msseg.cascade.checkpoint import load_cascade
        from bids_msseg.cascade.inference import segment

        cascade = load_cascade(model)
        return segment(cascade, stack.data, stack.present, stack.brain, engine, fast=fast)
    from bids_msseg.models import cascade as networks
    from bids_msseg.models import checkpoint

    kept = checkpoint.load_cascade(model)
    return networks.segment(
        kept.candidate,
        kept.refinement,
        kept.point,
        stack.data,
        stack.present,
        stack.brain,
        engine,
        fast=fast,
    )
