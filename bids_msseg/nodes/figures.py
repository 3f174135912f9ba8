"""The node that draws a visit's figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import File, traits

from bids_msseg.imaging.registration.itk import read_itk_affine
from bids_msseg.imaging.resample import inverse, resample
from bids_msseg.imaging.template import EMBEDDED, load_template
from bids_msseg.imaging.volume import Volume, load_volume
from bids_msseg.nodes.base import Step, StepInputs, StepOutputs
from bids_msseg.nodes.context import DerivativesContext
from bids_msseg.reports.images.drawing import draw_visit


class _DrawInputs(StepInputs):
    context = traits.Any(mandatory=True, nohash=True)
    flair_file = File(
        exists=True, mandatory=True, desc="with a rim around the brain, on the FLAIR as acquired"
    )
    brain_file = File(exists=True, mandatory=True)
    labels_file = File(exists=True, mandatory=True)
    rejected_file = File(exists=True, mandatory=True)
    anatomy_file = File(exists=True, desc="classes on the FLAIR as acquired")
    moving_files = traits.List(traits.Str, desc="images on the FLAIR grid")
    moving_names = traits.List(traits.Str)
    left_out = traits.List(traits.Str, desc="contrasts that could not be aligned")
    template_transform = File(desc="template world to FLAIR world")
    template_trusted = traits.Bool(True, usedefault=True, desc="else it is drawn, too")


class _DrawOutputs(StepOutputs):
    figure_files = traits.List(traits.Str)


class DrawFigures(Step):
    """Draw lesions, brain mask and registration; see :mod:`bids_msseg.reports.images.drawing`."""

    input_spec = _DrawInputs
    output_spec = _DrawOutputs
    always_run = True  # nipype does not check for the files that it writes to OUT

    def work(self, folder: Path, **inputs: Any) -> dict[str, Any]:  # noqa: ARG002
        """Write the PNG files below OUT."""
        context: DerivativesContext = inputs["context"]
        names, files = inputs.get("moving_names", []), inputs.get("moving_files", [])
        flair = load_volume(inputs["flair_file"])
        moving = {n: load_volume(f) for n, f in zip(names, files, strict=True)}
        anatomy = None
        if "anatomy_file" in inputs:
            anatomy = load_volume(inputs["anatomy_file"], np.uint8)
        doubtful = list(inputs.get("left_out", []))
        if not inputs["template_trusted"]:
            moving[EMBEDDED] = _template_on(flair, Path(inputs["template_transform"]))
            doubtful.append(EMBEDDED)
        figure_files = draw_visit(
            context.out_dir,
            context.visit,
            flair=flair,
            brain=load_volume(inputs["brain_file"]),
            lesions=load_volume(inputs["labels_file"]),
            rejected=load_volume(inputs["rejected_file"]),
            anatomy=anatomy,
            moving=moving,
            doubtful=doubtful,
        )
        return {"figure_files": [str(path) for path in figure_files]}


def _template_on(flair: Volume, transform: Path) -> Volume:
    """Resample the template to the FLAIR with the fitted transform."""
    move = inverse(read_itk_affine(transform))
    template = load_template(EMBEDDED).volume
    return resample(template, flair.shape, flair.affine, transform=move)
