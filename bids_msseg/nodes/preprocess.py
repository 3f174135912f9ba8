"""Nodes that call functions of :mod:`bids_msseg.imaging`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nipype.interfaces.base import File, traits

from bids_msseg.imaging.conform import conform
from bids_msseg.imaging.normalise import CONTRASTS, build_stack
from bids_msseg.imaging.registration.itk import read_itk_affine, write_itk_affine
from bids_msseg.imaging.volume import Affine, StoredVolumes, Volume, load_volume, save_volume
from bids_msseg.nodes.base import Step, StepInputs, StepOutputs
from bids_msseg.pipeline.brain import check_mask, find_brain
from bids_msseg.pipeline.preprocess import align_contrast, correct_contrasts, fit_template


def contrast_files(inputs: Mapping[str, Any]) -> StoredVolumes:
    """Return the images that a node has as ``flair_file``, ``t1w_file`` and ``t2w_file``."""
    files = {contrast: f"{contrast.lower()}_file" for contrast in CONTRASTS}
    return StoredVolumes({c: inputs[name] for c, name in files.items() if name in inputs})


def contrast_transforms(inputs: Mapping[str, Any]) -> dict[str, Affine]:
    """Read the transforms from the FLAIR's world, ``t1w_transform`` and ``t2w_transform``."""
    files = {contrast: f"{contrast.lower()}_transform" for contrast in CONTRASTS}
    return {c: read_itk_affine(Path(inputs[name])) for c, name in files.items() if name in inputs}


class _ConformInputs(StepInputs):
    in_file = File(mandatory=True, desc="image as acquired")
    contrast = traits.Str(mandatory=True)


class _ImageOutputs(StepOutputs):
    out_file = File(desc="conformed image")


class Conform(Step):
    """Check an image and bring it to RAS+ axes; see :func:`bids_msseg.imaging.conform.conform`."""

    input_spec = _ConformInputs
    output_spec = _ImageOutputs

    def work(self, folder: Path, **inputs: Any) -> dict[str, Any]:
        """Conform one contrast."""
        target = folder / f"{inputs['contrast']}.nii"
        conformed = conform(Path(inputs["in_file"]), target, contrast=inputs["contrast"])
        return {"out_file": str(target), "notes": list(conformed.notes)}


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
        brain = find_brain(
            image,
            mask_path=Path(inputs["given_mask"]) if "given_mask" in inputs else None,
            skull_stripped=inputs["skull_stripped"],
            sidecar=inputs["sidecar"],
            device=inputs["device"],
            threads=inputs["threads"],
        )
        target = folder / "brain.nii.gz"
        save_volume(image.with_data(brain.mask), target)
        return {"mask_file": str(target), "how": brain.how, "notes": list(brain.notes)}


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
    faults = traits.List(traits.Str, desc="faults for the image check")


class Coregister(Step):
    """Align T1w or T2w with FLAIR, rigidly; leave out what cannot be aligned."""

    input_spec = _CoregisterInputs
    output_spec = _CoregisterOutputs

    def work(self, folder: Path, **inputs: Any) -> dict[str, Any]:
        """Find and write the transform; pass the image on if the transform is plausible."""
        target, contrast = folder / "fixed_to_moving.txt", inputs["contrast"]
        alignment = align_contrast(
            contrast,
            load_volume(inputs["moving_file"]),
            load_volume(inputs["fixed_file"]),
            load_volume(inputs["fixed_mask"]).data > 0,
            threads=inputs["threads"],
            seed=inputs["seed"],
        )
        write_itk_affine(alignment.affine, target)
        common: dict[str, Any] = {"attempt_file": str(target), "notes": list(alignment.notes)}
        if alignment.fault:
            return {**common, "left_out": [contrast], "faults": [alignment.fault]}
        return {
            **common,
            "transform_file": str(target),
            "used_file": inputs["moving_file"],
            "left_out": [],
            "faults": [],
        }


class ContrastInputs(StepInputs):
    """Inputs of a node that reads all contrasts of a visit; T1w and T2w may be undefined."""

    flair_file = File(exists=True, mandatory=True)
    mask_file = File(exists=True, mandatory=True, desc="brain on the FLAIR grid")
    t1w_file = File()
    t1w_transform = File(desc="FLAIR world to T1w world")
    t2w_file = File()
    t2w_transform = File(desc="FLAIR world to T2w world")


class _BiasOutputs(StepOutputs):
    flair_file = File(desc="corrected, on its own grid; so are the others")
    t1w_file = File()
    t2w_file = File()


class CorrectBias(Step):
    """Remove the bias fields of all contrasts in one step, because N4 uses one processor."""

    input_spec = ContrastInputs
    output_spec = _BiasOutputs

    def work(self, folder: Path, **inputs: Any) -> dict[str, Any]:
        """Correct every contrast on its own grid; hold at most one per thread in memory."""

        def keep(contrast: str, image: Volume) -> str:
            target = folder / f"{contrast.lower()}.nii"
            save_volume(image, target)
            return str(target)

        paths = correct_contrasts(
            contrast_files(inputs),
            load_volume(inputs["mask_file"]),
            contrast_transforms(inputs),
            threads=inputs["threads"],
            keep=keep,
        )
        return {f"{contrast.lower()}_file": path for contrast, path in paths.items()}


class _TemplateInputs(StepInputs):
    flair_file = File(exists=True, mandatory=True)
    mask_file = File(exists=True, mandatory=True, desc="brain on the FLAIR grid")
    template = traits.Str(mandatory=True)
    resolution = traits.Int(1, usedefault=True)
    seed = traits.Int(0, usedefault=True)


class _TemplateOutputs(StepOutputs):
    transform_file = File(desc="ITK text affine: template world mm to FLAIR world mm")
    trusted = traits.Bool(desc="whether the fit passed its checks")
    faults = traits.List(traits.Str, desc="faults for the image check")


class FitTemplate(Step):
    """Fit a template to the brain by an affine transform, also without a T1w."""

    input_spec = _TemplateInputs
    output_spec = _TemplateOutputs

    def work(self, folder: Path, **inputs: Any) -> dict[str, Any]:
        """Write the affine that maps template world mm to FLAIR world mm."""
        template_fit = fit_template(
            load_volume(inputs["flair_file"]),
            load_volume(inputs["mask_file"]).data > 0,
            name=inputs["template"],
            resolution=inputs["resolution"],
            threads=inputs["threads"],
            seed=inputs["seed"],
        )
        target = folder / "template_to_flair.txt"
        write_itk_affine(template_fit.affine, target)
        return {
            "transform_file": str(target),
            "trusted": not template_fit.fault,
            "faults": [template_fit.fault] if template_fit.fault else [],
            "notes": list(template_fit.notes),
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
    faults = traits.List(traits.Str, desc="faults for the image check")


class CheckBrain(Step):
    """Check the mask against the template; see :mod:`bids_msseg.imaging.brain_check`."""

    input_spec = _CheckBrainInputs
    output_spec = _CheckBrainOutputs

    def work(self, folder: Path, **inputs: Any) -> dict[str, Any]:
        """Write the mask if it changed, and a mask of tissue that cannot be lesion."""
        if not inputs["trusted"]:
            return {"mask_file": inputs["mask_file"], "faults": []}
        flair, mask = load_volume(inputs["flair_file"]), load_volume(inputs["mask_file"])
        move = read_itk_affine(Path(inputs["template_transform"]))
        checked = check_mask(flair, mask.data > 0, move, how=inputs["how"])
        target = Path(inputs["mask_file"])
        if checked.notes:
            target = folder / "brain.nii.gz"
            save_volume(mask.with_data(checked.mask), target)
        save_volume(mask.with_data(checked.extracerebral), folder / "extracerebral.nii.gz")
        return {
            "mask_file": str(target),
            "extracerebral_file": str(folder / "extracerebral.nii.gz"),
            "faults": list(checked.faults),
            "notes": list(checked.notes),
        }


class _StackOutputs(StepOutputs):
    stack_file = File(desc="what the networks read")


class BuildStack(Step):
    """Resample all contrasts to the 1 mm grid and normalise them inside the brain."""

    input_spec = ContrastInputs
    output_spec = _StackOutputs

    def work(self, folder: Path, **inputs: Any) -> dict[str, Any]:
        """Write the stack."""
        mask, moves = load_volume(inputs["mask_file"]), contrast_transforms(inputs)
        stack = build_stack(contrast_files(inputs), mask, transforms=moves)
        target = folder / "stack.npz"
        stack.save(target)
        return {"stack_file": str(target)}
