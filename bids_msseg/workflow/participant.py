"""The workflow of one visit: preprocessing, segmentation and output."""

from __future__ import annotations

from typing import Any

from nipype.pipeline.engine import Workflow

from bids_msseg.imaging.template import EMBEDDED
from bids_msseg.nodes.anatomy import FindAnatomy, MeasureBrain
from bids_msseg.nodes.context import DerivativesContext
from bids_msseg.nodes.intermediate import stored_steps
from bids_msseg.nodes.lesions import (
    Delineate,
    FillLesions,
    MaskInSpace,
    MeasureRegions,
    OntoGrid,
    TakeGivenMask,
)
from bids_msseg.nodes.preprocess import (
    BuildStack,
    CheckBrain,
    Conform,
    Coregister,
    CorrectBias,
    FindBrain,
    FitTemplate,
)
from bids_msseg.nodes.quality import CheckImages, EstimateLoad
from bids_msseg.nodes.segment import Segment, SegmentByOther
from bids_msseg.pipeline.brain import brain_device
from bids_msseg.reports.images.figures import WIDE_RIM_MM
from bids_msseg.resources import MAX_THREADS_PER_NODE
from bids_msseg.segmenters.base import Segmenter
from bids_msseg.spaces import NATIVE_SPACES
from bids_msseg.workflow.plan import Settings, VisitPlan, workflow_name
from bids_msseg.workflow.publish import add_final_steps


def init_visit_wf(*, context: DerivativesContext, settings: Settings) -> Workflow:
    """Build the workflow of one visit; steps in its archive read their outputs from there."""
    archive = context.intermediate
    stored = frozenset[str]() if archive is None else stored_steps(archive)
    plan = VisitPlan(Workflow(workflow_name(context)), context, settings, stored)
    _preprocess(plan)
    _segment(plan)
    _onto_flair(plan)
    _other_spaces(plan)
    _measure_regions(plan)
    _fill_lesions(plan)
    add_final_steps(plan)
    return plan.workflow


def _preprocess(plan: VisitPlan) -> None:
    """Conform, find the brain, align, correct bias, fit the template, check the brain."""
    chosen = plan.settings
    for contrast, path in plan.contrasts.items():
        step = Conform(in_file=str(path), contrast=contrast)
        plan.add(step, f"conform_{contrast}", mem_gb=0.5)
    brain = FindBrain(
        skull_stripped=chosen.skull_stripped,
        sidecar=_sidecar(plan),
        device=brain_device(chosen.device),
    )
    if plan.context.visit.brain_mask is not None:
        brain.inputs.given_mask = str(plan.context.visit.brain_mask)
    plan.add(brain, "brain", mem_gb=1.5)
    plan.connect("conform_FLAIR", "out_file", "brain", "in_file")
    for contrast in plan.moving:
        name = f"coregister_{contrast}"
        plan.add(Coregister(contrast=contrast, seed=chosen.seed), name, mem_gb=1.0)
        plan.connect(f"conform_{contrast}", "out_file", name, "moving_file")
        plan.connect("conform_FLAIR", "out_file", name, "fixed_file")
        plan.connect("brain", "mask_file", name, "fixed_mask")
    _correct_bias(plan)
    _fit_template(plan, "template", EMBEDDED, 1)
    _check_brain(plan)
    _find_anatomy(plan)


def _correct_bias(plan: VisitPlan) -> None:
    plan.add(CorrectBias(), "bias", mem_gb=2.0, max_threads=len(plan.contrasts))
    plan.connect("brain", "mask_file", "bias", "mask_file")
    plan.connect("conform_FLAIR", "out_file", "bias", "flair_file")
    for contrast in plan.moving:
        name = contrast.lower()
        # undefined where the contrast could not be aligned: then no later step has it
        plan.connect(f"coregister_{contrast}", "used_file", "bias", f"{name}_file")
        plan.connect(f"coregister_{contrast}", "transform_file", "bias", f"{name}_transform")


def _fit_template(plan: VisitPlan, name: str, template: str, resolution: int) -> None:
    step = FitTemplate(template=template, resolution=resolution, seed=plan.settings.seed)
    plan.add(step, name, mem_gb=1.5)
    plan.connect("bias", "flair_file", name, "flair_file")
    plan.connect("brain", "mask_file", name, "mask_file")


def _check_brain(plan: VisitPlan) -> None:
    """Check the brain mask against the template; later steps use the result."""
    plan.add(CheckBrain(), "check_brain", mem_gb=1.0)
    plan.connect("bias", "flair_file", "check_brain", "flair_file")
    for output in ("mask_file", "how"):
        plan.connect("brain", output, "check_brain", output)
    plan.connect("template", "transform_file", "check_brain", "template_transform")
    plan.connect("template", "trusted", "check_brain", "trusted")


def _find_anatomy(plan: VisitPlan) -> None:
    """Adapt the ventricles of the template to the fluid of this brain."""
    plan.add(FindAnatomy(), "anatomy", mem_gb=1.0)
    _give_images(plan, "anatomy")
    plan.connect("template", "transform_file", "anatomy", "template_transform")


def _sidecar(plan: VisitPlan) -> str:
    """Return ``SkullStripped`` of the FLAIR's sidecar: ``yes``, ``no`` or ``auto``."""
    return {None: "auto", True: "yes", False: "no"}[plan.context.visit.skull_stripped("FLAIR")]


def _segment(plan: VisitPlan) -> None:
    """Build the stack, find lesions by segmenter or given mask, and check the quality."""
    plan.add(BuildStack(), "stack", mem_gb=1.5)
    _give_images(plan, "stack")
    if plan.settings.segmenter is not None:
        _run_other(plan, plan.settings.segmenter)
    elif plan.context.with_anatomy:
        _run_networks(plan)
    if plan.mask_given:
        _take_mask(plan)
    else:
        _cut_lesions(plan)
    plan.connect("check_brain", "mask_file", "delineate", "mask_file")
    plan.connect("template", "transform_file", "delineate", "template_transform")
    plan.connect("anatomy", "regions_file", "delineate", "regions_file")
    plan.connect("anatomy", "own_ventricles", "delineate", "own_ventricles")
    _check_quality(plan)


def _give_images(plan: VisitPlan, step: str) -> None:
    """Connect a step to the bias-corrected images, their transforms and the brain mask."""
    plan.connect("bias", "flair_file", step, "flair_file")
    plan.connect("check_brain", "mask_file", step, "mask_file")
    for contrast in plan.moving:
        name = contrast.lower()
        plan.connect("bias", f"{name}_file", step, f"{name}_file")
        plan.connect(f"coregister_{contrast}", "transform_file", step, f"{name}_transform")


def _run_other(plan: VisitPlan, segmenter: Segmenter) -> None:
    """Run another segmenter, which returns only a probability."""
    digest = plan.context.model.sha256 if plan.context.model else ""
    step = SegmentByOther(segmenter=segmenter, digest=digest, device=plan.settings.device)
    plan.add(step, "segment", mem_gb=segmenter.mem_gb, max_threads=MAX_THREADS_PER_NODE)
    _give_images(plan, "segment")


def _run_networks(plan: VisitPlan) -> None:
    """Run the cascade, which also finds the anatomy; with a given mask only the anatomy."""
    chosen = plan.settings
    cascade = Segment(
        model_file=str(chosen.model_file),
        fast=chosen.fast,
        anatomy_only=plan.mask_given,
        device=chosen.device,
    )
    plan.add(cascade, "segment", mem_gb=3.0, max_threads=MAX_THREADS_PER_NODE)
    plan.connect("stack", "stack_file", "segment", "stack_file")
    _measure_brain(plan)


def _cut_lesions(plan: VisitPlan) -> None:
    """Delineate lesions in the output of the networks or of another segmenter."""
    lesions = Delineate(
        flair_file=str(plan.context.visit.flair),
        threshold=plan.context.threshold,
        min_volume=plan.context.min_lesion_volume,
        exclusion_files=_exclusion_files(plan),
    )
    plan.add(lesions, "delineate", mem_gb=1.0)
    by_cascade = () if plan.settings.segmenter else ("candidate", "lesion", "candidates")
    for name in ("probability", *by_cascade):
        plan.connect("segment", f"{name}_file", "delineate", f"{name}_file")
    plan.connect("check_brain", "extracerebral_file", "delineate", "extracerebral_file")


def _take_mask(plan: VisitPlan) -> None:
    """Use a given mask instead of the lesions of the networks."""
    visit = plan.context.visit
    lesions = TakeGivenMask(
        flair_file=str(visit.flair),
        lesion_file=str(visit.lesion_mask),
        values=list(plan.settings.mask_values),
        min_volume=plan.context.min_lesion_volume,
        exclusion_files=_exclusion_files(plan),
    )
    plan.add(lesions, "delineate", mem_gb=1.0)


def _exclusion_files(plan: VisitPlan) -> list[str]:
    return [str(mask) for mask in plan.context.visit.exclude_masks]


def _measure_brain(plan: VisitPlan) -> None:
    """Resample the anatomy to the FLAIR as acquired, and measure it."""
    step = MeasureBrain(flair_file=str(plan.context.visit.flair))
    plan.add(step, "volumes", mem_gb=0.5)
    plan.connect("segment", "anatomy_file", "volumes", "anatomy_file")
    plan.connect("template", "transform_file", "volumes", "template_transform")
    plan.connect("template", "trusted", "volumes", "trusted")


def _check_quality(plan: VisitPlan) -> None:
    """Check the images, and estimate the reliability of the load and of each lesion."""
    chosen = plan.settings
    common = {"model_file": str(chosen.model_file), "calibration": chosen.calibration}
    if plan.mask_given or chosen.segmenter is not None:
        common = {}
    files = {name: str(path) for name, path in plan.contrasts.items()}
    plan.add(CheckImages(contrasts=files, **common), "quality", mem_gb=1.0)
    plan.connect("stack", "stack_file", "quality", "stack_file")
    plan.connect("check_brain", "mask_file", "quality", "mask_file")
    if plan.mask_given:
        return
    estimate = EstimateLoad(fast=chosen.fast, **common)
    plan.add(estimate, "estimate", mem_gb=0.5)
    for output in ("probseg", "table"):
        plan.connect("delineate", f"{output}_file", "estimate", f"{output}_file")


def _onto_flair(plan: VisitPlan) -> None:
    """Resample contrasts to the FLAIR as acquired: with a rim for figures, without for OUT."""
    images = {f"on_flair_{contrast}": (contrast, 0.0) for contrast in plan.contrasts}
    images["on_flair_head"] = ("FLAIR", WIDE_RIM_MM)
    for name, (contrast, rim_mm) in images.items():
        step = OntoGrid(reference_file=str(plan.context.visit.flair), rim_mm=rim_mm)
        plan.add(step, name, mem_gb=0.5)
        plan.connect("bias", f"{contrast.lower()}_file", name, "in_file")
        plan.connect("check_brain", "mask_file", name, "mask_file")
        if contrast != "FLAIR":
            plan.connect(f"conform_{contrast}", "out_file", name, "left_out_file")
            plan.connect(f"coregister_{contrast}", "attempt_file", name, "transform_file")


def _other_spaces(plan: VisitPlan) -> None:
    """Threshold the probability on the T1w grid, on templates and on grids of files."""
    for name, (space, resolution) in plan.masks.items():
        if space == "T1w":
            reference = str(plan.contrasts["T1w"])
            _add_mask(plan, name, "coregister_T1w", reference_file=reference, invert=True)
        else:
            transform = _template_node(plan, space, resolution)
            _add_mask(plan, name, transform, template=space, resolution=resolution)
    for grid in plan.context.extras.grids:
        same = grid.world == "FLAIR"
        transform = "" if same else f"coregister_{grid.world}"
        inputs = {"reference_file": grid.file, "same_world": same, "invert": not same}
        _add_mask(plan, f"space_{grid.name}", transform, **inputs)


def _add_mask(plan: VisitPlan, name: str, transform: str, **inputs: Any) -> None:
    context = plan.context
    step = MaskInSpace(threshold=context.threshold, min_volume=context.min_lesion_volume, **inputs)
    plan.add(step, name, mem_gb=1.0)
    plan.connect("delineate", "probability_file", name, "probability_file")
    if transform:
        plan.connect(transform, "transform_file", name, "transform_file")


def _template_node(plan: VisitPlan, space: str, resolution: int = 1) -> str:
    """Return the name of the node that fits a template; add the node if missing."""
    name = "template" if space == EMBEDDED else f"template_{space}"
    if name not in plan.steps:
        _fit_template(plan, name, space, resolution)
    return name


def _measure_regions(plan: VisitPlan) -> None:
    """Measure the lesions in the regions of each atlas."""
    for atlas in plan.context.extras.atlases:
        step, name = MeasureRegions(atlas=str(atlas)), f"atlas_{atlas.name}"
        if atlas.kind == "file":
            step.inputs.atlas_file = atlas.source
        plan.add(step, name, mem_gb=1.0)
        plan.connect("delineate", "labels_file", name, "labels_file")
        if atlas.space == "T1w":
            plan.connect("coregister_T1w", "transform_file", name, "transform_file")
        elif atlas.space not in NATIVE_SPACES:
            step.inputs.invert = True
            fit = _template_node(plan, atlas.space)
            plan.connect(fit, "transform_file", name, "transform_file")


def _fill_lesions(plan: VisitPlan) -> None:
    """Fill the lesions of FLAIR and T1w for other programs, each on its own grid."""
    masks = {"FLAIR": "delineate", "T1w": "space_T1w"}
    for contrast in masks if plan.context.extras.filled else ():
        if contrast not in plan.contrasts:
            continue
        name, image = f"fill_{contrast}", str(plan.contrasts[contrast])
        step = FillLesions(image_file=image, seed=plan.settings.seed)
        plan.add(step, name, mem_gb=2.0)
        plan.connect(masks[contrast], "mask_file", name, "mask_file")
        plan.connect("segment", "anatomy_file", name, "anatomy_file")
        if contrast != "FLAIR":
            plan.connect(f"coregister_{contrast}", "transform_file", name, "transform_file")
