"""The node that stores intermediate results, so that lesions can be cut again without networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nipype.interfaces.base import File, traits

from bids_msseg.nodes.base import Step, StepInputs, StepOutputs
from bids_msseg.nodes.intermediate import write_archive


class _StoreInputs(StepInputs):
    outputs_files = traits.List(traits.Str, mandatory=True, desc="JSON of each step's outputs")
    step_names = traits.List(traits.Str, mandatory=True, desc="of the steps, in the same order")
    selected_outputs = traits.Dict(
        traits.Str, traits.List(traits.Str), mandatory=True, desc="outputs to store, by step"
    )
    published = traits.Dict(
        traits.Str, traits.Str, mandatory=True, desc="STEP.OUTPUT to its place below OUT"
    )
    fingerprint = traits.Str(mandatory=True, desc="of what the outputs depend on")
    versions = traits.Dict(traits.Str, traits.Str, mandatory=True)


class _StoreOutputs(StepOutputs):
    archive_file = File()


class StoreSteps(Step):
    """Write the archive of :mod:`bids_msseg.nodes.intermediate` into the node's folder."""

    input_spec = _StoreInputs
    output_spec = _StoreOutputs
    always_run = True  # nipype sees only the names of the files that it stores

    def work(self, folder: Path, **inputs: Any) -> dict[str, Any]:
        """Store the outputs that later steps need, if available."""
        names, files = inputs["step_names"], inputs["outputs_files"]
        outputs = {
            step: json.loads(Path(file).read_text(encoding="utf-8"))
            for step, file in zip(names, files, strict=True)
        }
        left_out = {
            contrast for values in outputs.values() for contrast in values.get("left_out", [])
        }
        steps = {
            step: {name: outputs[step][name] for name in selected if name in outputs[step]}
            for step, selected in inputs["selected_outputs"].items()
        }
        # a contrast that was left out is drawn and not published
        published = {
            output: place
            for output, place in inputs["published"].items()
            if output.partition(".")[0].rpartition("_")[2] not in left_out
        }
        target = folder / "intermediate.zip"
        write_archive(
            target,
            steps,
            published=published,
            fingerprint=inputs["fingerprint"],
            versions=inputs["versions"],
        )
        return {"archive_file": str(target)}
