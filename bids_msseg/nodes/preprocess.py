"""Nodes that call the imaging room."""

from __future__ import annotations

import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.filebasedimages import ImageFileError
from nipype.interfaces.base import File, traits

from bids_msseg.errors import DataError
from bids_msseg.imaging.bias import correct_bias, steady_threads
from bids_msseg.imaging.brain import (
    brain_notes,
    contradictions,
    extract_brain,
    is_skull_stripped,
    mask_from_stripped,
)
from bids_msseg.imaging.brain_check import check_brain
from bids_msseg.imaging.conform import check_header, conform
from bids_msseg.imaging.normalise import build_stack
from bids_msseg.imaging.register import (
    read_itk_affine,
    register_affine,
    register_rigid,
    write_itk_affine,
)
from bids_msseg.imaging.resample import inverse, mask_onto
from bids_msseg.imaging.template import load_template
from bids_msseg.imaging.volume import Volume, load_volume, save_volume
from bids_msseg.nodes.base import Step, StepInputs, StepOutputs


class _ConformInputs(StepInputs):
    in_file = File(mandatory=True, desc="image as acquired")
    contrast = traits.Str(mandatory=True)


class _ImageOutputs(StepOutputs):
    out_file = File(desc="the image that the step made")


class Conform(Step):
    """Check an image and bring it to RAS+ axes; see :func:`bids_msseg.imaging.conform.conform`."""

    input_spec = _ConformInputs
    output_spec = _ImageOutputs

    def work(self, folder: Path, **inputs: Any) -> dict[str, Any]:
        """Conform one contrast."""
        target = folder / f"{inputs['contrast']}.nii.gz"
        done = conform(Path(inputs["in_file"]), target, contrast=inputs["contrast"])
        return {"out_file": str(target), "notes": list(done.notes)}


class _BrainInputs(StepInputs):
    in_file = File(exists=True, mandatory=True, desc="conformed image")
    given_mask = File(desc="brain mask of another pipeline, on the image's grid")
    skull_stripped = traits.Enum("auto", "yes", "no", usedefault=True, desc="the option")
    sidecar = traits.Enum("auto", "yes", "no", usedefault=True, desc="what the sidecar says")
    device = traits.Str("cpu", usedefault=True)


class _BrainOutputs(StepOutputs):
    mask_file = File(desc="brain mask on the image's grid")
    how = traits.Enum("given", "stripped", "deepbet", desc="where the mask comes from")


class FindBrain(Step):
    """Find the brain: a given mask, the support of a stripped image, or deepbet."""

    input_spec = _BrainInputs
    output_spec = _BrainOutputs

    def work(self, folder: Path, **inputs: Any) -> dict[str, Any]:
        """Write the mask."""
        image = load_volume(inputs["in_file"])
        mask, how, notes = self._mask(image, inputs)
        target = folder / "brain.nii.gz"
        save_volume(image.with_data(mask), target)
        notes += brain_notes(mask, image.voxel_volume)
        return {"mask_file": str(target), "how": how, "notes": list(notes)}

    @staticmethod
    def _mask(image: Volume, inputs: dict[str, Any]) -> tuple[np.ndarray, str, tuple[str, ...]]:
        """Trust the image more than its sidecar, and the option more than both."""
        if "given_mask" in inputs:
            return _on_grid(Path(inputs["given_mask"]), image), "given", ()
        option, shown = inputs["skull_stripped"], is_skull_stripped(image)
        notes = contradictions(shown, option=option, sidecar=inputs["sidecar"])
        if option == "yes" or (option == "auto" and shown):
            return mask_from_stripped(image), "stripped", notes
        mask = extract_brain(image, device=inputs["device"], threads=inputs["threads"])
        return mask, "deepbet", notes


def _on_grid(path: Path, image: Volume) -> np.ndarray:
    """Read a mask that another pipeline made and bring it onto the conformed image."""
    shape = check_header(path, contrast="brain mask").shape
    try:
        stored = load_volume(path)
    except (OSError, EOFError, ValueError, zlib.error, ImageFileError) as error:
        raise DataError(
            f"the brain mask {path.name} is damaged: {error}",
            hint="leave --derivatives out, or make the mask again",
        ) from error
    mask = stored.with_data(stored.data.reshape(shape) > 0)
    moved = mask_onto(mask, image.shape, image.affine)
    if not moved.any():
        raise DataError(
            f"the brain mask {path.name} does not meet the FLAIR",
            hint="leave --derivatives out, or give a mask in the space of this FLAIR",
        )
    return moved


class _CoregisterInputs(StepInputs):
    contrast = traits.Str("moving", usedefault=True, desc="name of the moving image")
    moving_file = File(exists=True, mandatory=True)
    fixed_file = File(exists=True, mandatory=True, desc="FLAIR")
    fixed_mask = File(exists=True, mandatory=True, desc="brain on the FLAIR grid")
    seed = traits.Int(0, usedefault=True)


class _CoregisterOutputs(StepOutputs):
    transform_file = File(
        desc="ITK text affine: fixed world mm to moving world mm; undefined where left out"
    )
    used_file = File(desc="the moving image; undefined where left out")
    attempt_file = File(desc="the affine, also where it cannot be right")
    left_out = traits.List(traits.Str, desc="the contrast, where it could not be aligned")
    faults = traits.List(traits.Str, desc="what the check of the images has to tell")


class Coregister(Step):
    """Align T1w or T2w with FLAIR, rigidly; leave out what cannot be aligned."""

    input_spec = _CoregisterInputs
    output_spec = _CoregisterOutputs

    def work(self, folder: Path, **inputs: Any) -> dict[str, Any]:
        """Find and write the transform; hand the image on where the transform can be right."""
        result = register_rigid(
            load_volume(inputs["moving_file"]),
            load_volume(inputs["fixed_file"]),
            fixed_mask=load_volume(inputs["fixed_mask"]).data > 0,
            threads=inputs["threads"],
            seed=inputs["seed"],
        )
        target, contrast = folder / "fixed_to_moving.txt", inputs["contrast"]
        write_itk_affine(result.affine, target)
        common: dict[str, Any] = {"attempt_file": str(target), "notes": list(result.notes)}
        if result.doubt:
            fault = f"the {contrast} image could not be aligned with FLAIR and is left out"
            return {**common, "left_out": [contrast], "faults": [f"{fault}: {result.doubt}"]}
        return {
            **common,
            "transform_file": str(target),
            "used_file": inputs["moving_file"],
            "left_out": [],
            "faults": [],
        }


class _BiasInputs(StepInputs):
    mask_file = File(exists=True, mandatory=True, desc="brain on the FLAIR grid")
    flair_file = File(exists=True, mandatory=True)
    t1w_file = File(exists=True)
    t1w_transform = File(desc="FLAIR world to T1w world")
    t2w_file = File(exists=True)
    t2w_transform = File(desc="FLAIR world to T2w world")


class _BiasOutputs(StepOutputs):
    flair_file = File(desc="corrected, on its own grid; so are the others")
    t1w_file = File()
    t2w_file = File()


class CorrectBias(Step):
    """Remove the bias fields inside the brain, of all contrasts in one step.

    N4 keeps one processor busy, so a step for each contrast would leave the others idle.
    """

    input_spec = _BiasInputs
    output_spec = _BiasOutputs

    def work(self, folder: Path, **inputs: Any) -> dict[str, Any]:
        """Correct every contrast on its own grid; as many are in memory as there are threads."""
        mask = load_volume(inputs["mask_file"])

        def correct(name: str) -> Path:
            image = load_volume(inputs[f"{name}_file"])
            moved = inputs.get(f"{name}_transform")
            world = None if moved is None else inverse(read_itk_affine(Path(moved)))
            inside = mask_onto(mask, image.shape, image.affine, transform=world)
            target = folder / f"{name}.nii.gz"
            save_volume(correct_bias(image, inside), target)
            return target

        names = [name for name in ("flair", "t1w", "t2w") if f"{name}_file" in inputs]
        with steady_threads(), ThreadPoolExecutor(inputs["threads"]) as pool:
            targets = list(pool.map(correct, names))
        return {f"{name}_file": str(path) for name, path in zip(names, targets, strict=True)}


class _TemplateInputs(StepInputs):
    flair_file = File(exists=True, mandatory=True)
    mask_file = File(exists=True, mandatory=True, desc="brain on the FLAIR grid")
    template = traits.Str(mandatory=True)
    resolution = traits.Int(1, usedefault=True)
    seed = traits.Int(0, usedefault=True)


class _TemplateOutputs(StepOutputs):
    transform_file = File(desc="ITK text affine: template world mm to FLAIR world mm")
    trusted = traits.Bool(desc="whether the fit passed its checks")
    faults = traits.List(traits.Str, desc="what the check of the images has to tell")


class FitTemplate(Step):
    """Fit a template to the brain by an affine; visits without T1w have it too."""

    input_spec = _TemplateInputs
    output_spec = _TemplateOutputs

    def work(self, folder: Path, **inputs: Any) -> dict[str, Any]:
        """Write the affine that maps template world mm to FLAIR world mm."""
        template = load_template(inputs["template"], resolution=inputs["resolution"])
        flair, mask = load_volume(inputs["flair_file"]), load_volume(inputs["mask_file"])
        result = register_affine(
            flair,
            template.volume,
            moving_mask=mask.data > 0,
            fixed_mask=template.mask,
            threads=inputs["threads"],
            seed=inputs["seed"],
        )
        target = folder / "template_to_flair.txt"
        write_itk_affine(result.affine, target)
        fault = f"the template {template.name} may not fit, and regions may be wrong"
        return {
            "transform_file": str(target),
            "trusted": not result.doubt,
            "faults": [f"{fault}: {result.doubt}"] if result.doubt else [],
            "notes": list(result.notes),
        }


class _CheckBrainInputs(StepInputs):
    flair_file = File(exists=True, mandatory=True, desc="bias field removed")
    mask_file = File(exists=True, mandatory=True, desc="brain on the FLAIR grid")
    how = traits.Str(mandatory=True, desc="where the mask comes from: a given one stays")
    template_transform = File(exists=True, mandatory=True, desc="template world to FLAIR world")
    trusted = traits.Bool(mandatory=True, desc="whether the transform passed its checks")


class _CheckBrainOutputs(StepOutputs):
    mask_file = File(desc="the same file where nothing was cut off")
    extracerebral_file = File(desc="where no lesion can be; undefined without a trusted template")
    faults = traits.List(traits.Str, desc="what the check of the images has to tell")


class CheckBrain(Step):
    """Hold the mask against the template; see :mod:`bids_msseg.imaging.brain_check`."""

    input_spec = _CheckBrainInputs
    output_spec = _CheckBrainOutputs

    def work(self, folder: Path, **inputs: Any) -> dict[str, Any]:
        """Write the mask where it changed, and where no lesion can be."""
        if not inputs["trusted"]:
            return {"mask_file": inputs["mask_file"], "faults": []}
        flair, mask = load_volume(inputs["flair_file"]), load_volume(inputs["mask_file"])
        template = load_template()
        found = check_brain(
            flair,
            mask.data > 0,
            template.volume.with_data(template.mask),
            inverse(read_itk_affine(Path(inputs["template_transform"]))),
            repair=inputs["how"] != "given",
        )
        target = Path(inputs["mask_file"])
        if found.notes:
            target = folder / "brain.nii.gz"
            save_volume(mask.with_data(found.mask), target)
        save_volume(mask.with_data(found.extracerebral), folder / "extracerebral.nii.gz")
        return {
            "mask_file": str(target),
            "extracerebral_file": str(folder / "extracerebral.nii.gz"),
            "faults": list(found.faults),
            "notes": list(found.notes),
        }


class _StackInputs(StepInputs):
    flair_file = File(exists=True, mandatory=True)
    mask_file = File(exists=True, mandatory=True)
    t1w_file = File()
    t1w_transform = File()
    t2w_file = File()
    t2w_transform = File()


class _StackOutputs(StepOutputs):
    stack_file = File(desc="what the networks read")


class BuildStack(Step):
    """Bring all contrasts onto the 1 mm grid and normalise them inside the brain."""

    input_spec = _StackInputs
    output_spec = _StackOutputs

    def work(self, folder: Path, **inputs: Any) -> dict[str, Any]:
        """Write the stack."""
        images = {"FLAIR": load_volume(inputs["flair_file"])}
        transforms = {}
        for contrast in ("T1w", "T2w"):
            name = contrast.lower()
            if f"{name}_file" in inputs:
                images[contrast] = load_volume(inputs[f"{name}_file"])
                transforms[contrast] = read_itk_affine(Path(inputs[f"{name}_transform"]))
        stack = build_stack(images, load_volume(inputs["mask_file"]), transforms=transforms)
        target = folder / "stack.npz"
        stack.save(target)
        return {"stack_file": str(target)}
