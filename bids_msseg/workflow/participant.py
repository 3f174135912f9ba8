"""The workflow of one visit: preprocess, segment, deliver.

Each factory takes only what it uses, by keyword, and returns an unconnected piece or the whole.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nipype.interfaces.utility import Merge
from nipype.pipeline.engine import Node, Workflow

from bids_msseg.bids.visit import Visit
from bids_msseg.config import NATIVE_SPACES
from bids_msseg.imaging.template import EMBEDDED
from bids_msseg.nodes.anatomy import FindAnatomy
from bids_msseg.nodes.lesions import Delineate, MaskInSpace, OntoGrid
from bids_msseg.nodes.outputs import Delivery, DrawFigures, PublishVisit
from bids_msseg.nodes.preprocess import (
    BuildStack,
    CheckBrain,
    Conform,
    Coregister,
    CorrectBias,
    FindBrain,
    FitTemplate,
)
from bids_msseg.nodes.segment import Segment
from bids_msseg.nodes.trust import CheckImages, EstimateLoad
from bids_msseg.pipeline.preprocess import brain_device

STEP_LABELS = {
    "conform": "checking images",
    "brain": "finding the brain",
    "coregister": "aligning contrasts",
    "bias": "removing bias fields",
    "template": "fitting the template",
    "check_brain": "checking the brain mask",
    "anatomy": "finding the ventricles",
    "stack": "normalising",
    "quality": "checking contrasts",
    "segment": "segmenting",
    "delineate": "listing lesions",
    "estimate": "estimating the load",
    "on_flair": "writing images",
    "space": "other spaces",
    "draw": "drawing figures",
    "publish": "writing results",
}
"""Start of a node's name to what a person reads while it runs."""


def step_label(step: str) -> str | None:
    """Say in words what a node does; None for those that only gather.

    Examples
    --------
    >>> step_label("on_flair_T1w"), step_label("list_notes")
    ('writing images', None)
    """
    return next((words for start, words in STEP_LABELS.items() if step.startswith(start)), None)


@dataclass(frozen=True, slots=True)
class Settings:
    """What shapes the workflow of a visit beside its images.

    Attributes
    ----------
    model_file : path
        Weights of the cascade.
    skull_stripped : {"auto", "yes", "no"}
    fast : bool
    seed : int
    device : str
    threads : int
        Threads a node may use.
    spaces : tuple of (name, resolution or None)
        Where masks are written besides the FLAIR grid.
    measure : bool
        Whether each node measures its memory and CPU time.
    calibration : str
        Digest of what stands beside the weights; another one runs the steps that read it again.
    """

    model_file: Path
    skull_stripped: str = "auto"
    fast: bool = False
    seed: int = 0
    device: str = "auto"
    threads: int = 1
    spaces: tuple[tuple[str, int | None], ...] = ()
    measure: bool = False
    calibration: str = ""


def visit_workflow_name(visit: Visit) -> str:
    """Return the name of a visit's workflow, which is also its folder's.

    Examples
    --------
    >>> visit_workflow_name(Visit("01", "1", Path("f.nii.gz")))
    'sub_01_ses_1'
    """
    # BIDS labels may hold a plus and no underscore, nipype's names the other way round
    return visit.key.replace("-", "_").replace("+", "_plus_")


def init_visit_wf(*, delivery: Delivery, settings: Settings) -> Workflow:
    """Build the whole workflow of one visit.

    Parameters
    ----------
    delivery : Delivery
        The visit and where its results go.
    settings : Settings

    Returns
    -------
    Workflow
        Nodes ``conform_<contrast>``, ``brain``, ``coregister_<contrast>``, ``bias``,
        ``template``, ``check_brain``, ``anatomy``, ``stack``, ``quality``, ``segment``,
        ``delineate``, ``estimate``, ``on_flair_<what>``, ``space_<where>``, ``draw``,
        ``publish``.
    """
    plan = _Plan(Workflow(visit_workflow_name(delivery.visit)), delivery, settings)
    _preprocess(plan)
    _segment(plan)
    _onto_flair(plan)
    _other_spaces(plan)
    _deliver(plan)
    return plan.workflow


@dataclass(frozen=True, slots=True)
class _Plan:
    """A workflow under construction."""

    workflow: Workflow
    delivery: Delivery
    settings: Settings
    steps: list[str] = field(default_factory=list)

    @property
    def contrasts(self) -> dict[str, Path]:
        """Images of the visit by contrast."""
        return self.delivery.visit.contrasts

    @property
    def moving(self) -> list[str]:
        """Contrasts that have to be aligned with FLAIR."""
        return [name for name in self.contrasts if name != "FLAIR"]

    @property
    def spaces(self) -> dict[str, tuple[str, int]]:
        """Spaces besides the FLAIR's, each once, by the name of their node."""
        found: dict[str, tuple[str, int]] = {}
        for space, resolution in self.settings.spaces:
            if space == "T1w" and "T1w" in self.contrasts:
                found["space_T1w"] = (space, 1)
            elif space not in NATIVE_SPACES:
                grid = resolution or 1
                found[f"space_{space}" + (f"_{grid}" if grid != 1 else "")] = (space, grid)
        return found

    def add(self, interface: Any, name: str, *, mem_gb: float, threads: bool = True) -> Node:
        """Add a node that declares its memory and threads."""
        count = self.settings.threads if threads else 1
        interface.inputs.threads = count
        interface.inputs.measure = self.settings.measure
        node = Node(interface, name=name, mem_gb=mem_gb, n_procs=count)
        self.workflow.add_nodes([node])
        self.steps.append(name)
        return node

    def connect(self, start: str, output: str, end: str, target: str) -> None:
        """Connect two nodes by name."""
        nodes = self.workflow
        nodes.connect(nodes.get_node(start), output, nodes.get_node(end), target)


def _preprocess(plan: _Plan) -> None:
    """Conform, find the brain, align, correct, fit the template, check the brain."""
    chosen = plan.settings
    for contrast, path in plan.contrasts.items():
        step = Conform(in_file=str(path), contrast=contrast)
        plan.add(step, f"conform_{contrast}", mem_gb=0.5, threads=False)
    brain = FindBrain(
        skull_stripped=chosen.skull_stripped,
        sidecar=_sidecar(plan),
        device=brain_device(chosen.device),
    )
    if plan.delivery.visit.brain_mask is not None:
        brain.inputs.given_mask = str(plan.delivery.visit.brain_mask)
    plan.add(brain, "brain", mem_gb=1.5, threads=False)
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


def _correct_bias(plan: _Plan) -> None:
    plan.add(CorrectBias(), "bias", mem_gb=2.0)
    plan.connect("brain", "mask_file", "bias", "mask_file")
    plan.connect("conform_FLAIR", "out_file", "bias", "flair_file")
    for contrast in plan.moving:
        name = contrast.lower()
        # undefined where the contrast could not be aligned: then no later step has it
        plan.connect(f"coregister_{contrast}", "used_file", "bias", f"{name}_file")
        plan.connect(f"coregister_{contrast}", "transform_file", "bias", f"{name}_transform")


def _fit_template(plan: _Plan, name: str, template: str, resolution: int) -> None:
    step = FitTemplate(template=template, resolution=resolution, seed=plan.settings.seed)
    plan.add(step, name, mem_gb=1.5)
    plan.connect("bias", "flair_file", name, "flair_file")
    plan.connect("brain", "mask_file", name, "mask_file")


def _check_brain(plan: _Plan) -> None:
    """Hold the brain mask against the template; later steps have what comes out."""
    plan.add(CheckBrain(), "check_brain", mem_gb=1.0, threads=False)
    plan.connect("bias", "flair_file", "check_brain", "flair_file")
    for output in ("mask_file", "how"):
        plan.connect("brain", output, "check_brain", output)
    plan.connect("template", "transform_file", "check_brain", "template_transform")
    plan.connect("template", "trusted", "check_brain", "trusted")


def _find_anatomy(plan: _Plan) -> None:
    """Follow this brain's own fluid from where the template has ventricles."""
    plan.add(FindAnatomy(), "anatomy", mem_gb=1.0, threads=False)
    plan.connect("bias", "flair_file", "anatomy", "flair_file")
    plan.connect("check_brain", "mask_file", "anatomy", "mask_file")
    plan.connect("template", "transform_file", "anatomy", "template_transform")
    for contrast in plan.moving:
        name = contrast.lower()
        plan.connect("bias", f"{name}_file", "anatomy", f"{name}_file")
        plan.connect(f"coregister_{contrast}", "transform_file", "anatomy", f"{name}_transform")


def _sidecar(plan: _Plan) -> str:
    """Read what the FLAIR's sidecar says of the skull; the image is asked, too."""
    said = plan.delivery.visit.metadata.get("FLAIR", {}).get("SkullStripped")
    if not isinstance(said, bool):
        return "auto"
    return "yes" if said else "no"


def _segment(plan: _Plan) -> None:
    """Stack, cascade, lesions."""
    plan.add(BuildStack(), "stack", mem_gb=1.5, threads=False)
    plan.connect("bias", "flair_file", "stack", "flair_file")
    plan.connect("check_brain", "mask_file", "stack", "mask_file")
    for contrast in plan.moving:
        name = contrast.lower()
        plan.connect("bias", f"{name}_file", "stack", f"{name}_file")
        plan.connect(f"coregister_{contrast}", "transform_file", "stack", f"{name}_transform")
    chosen = plan.settings
    cascade = Segment(model_file=str(chosen.model_file), fast=chosen.fast, device=chosen.device)
    plan.add(cascade, "segment", mem_gb=3.0)
    plan.connect("stack", "stack_file", "segment", "stack_file")
    lesions = Delineate(
        flair_file=str(plan.delivery.visit.flair),
        threshold=plan.delivery.threshold,
        min_volume=plan.delivery.min_lesion_volume,
    )
    plan.add(lesions, "delineate", mem_gb=1.0, threads=False)
    for name in ("probability", "candidate", "lesion", "candidates"):
        plan.connect("segment", f"{name}_file", "delineate", f"{name}_file")
    plan.connect("check_brain", "mask_file", "delineate", "mask_file")
    plan.connect("check_brain", "extracerebral_file", "delineate", "extracerebral_file")
    plan.connect("template", "transform_file", "delineate", "template_transform")
    plan.connect("anatomy", "anatomy_file", "delineate", "anatomy_file")
    plan.connect("anatomy", "own_ventricles", "delineate", "own_ventricles")
    _judge(plan)


def _judge(plan: _Plan) -> None:
    """Check the images, and say how far the load and each lesion may be trusted."""
    chosen = plan.settings
    common = {"model_file": str(chosen.model_file), "calibration": chosen.calibration}
    files = {name: str(path) for name, path in plan.contrasts.items()}
    plan.add(CheckImages(contrasts=files, **common), "quality", mem_gb=1.0, threads=False)
    plan.connect("stack", "stack_file", "quality", "stack_file")
    plan.connect("check_brain", "mask_file", "quality", "mask_file")
    estimate = EstimateLoad(fast=chosen.fast, **common)
    plan.add(estimate, "estimate", mem_gb=0.5, threads=False)
    for output in ("probseg", "table"):
        plan.connect("delineate", f"{output}_file", "estimate", f"{output}_file")


def _onto_flair(plan: _Plan) -> None:
    """Bring the contrasts onto the FLAIR as acquired: with skull for figures, without for OUT."""
    for contrast in plan.contrasts:
        name = f"on_flair_{contrast}"
        plan.add(_grid_step(plan), name, mem_gb=0.5, threads=False)
        plan.connect("bias", f"{contrast.lower()}_file", name, "in_file")
        plan.connect("delineate", "brain_file", name, "brain_file")
        if contrast != "FLAIR":
            plan.connect(f"conform_{contrast}", "out_file", name, "left_out_file")
            plan.connect(f"coregister_{contrast}", "attempt_file", name, "transform_file")
    plan.add(_grid_step(plan), "on_flair_head", mem_gb=0.5, threads=False)
    plan.connect("bias", "flair_file", "on_flair_head", "in_file")


def _grid_step(plan: _Plan) -> OntoGrid:
    return OntoGrid(reference_file=str(plan.delivery.visit.flair))


def _other_spaces(plan: _Plan) -> None:
    """Cut the probability on the T1w grid and on templates; one fit serves all resolutions."""
    fitted = {EMBEDDED: "template"}
    for name, (space, resolution) in plan.spaces.items():
        step = MaskInSpace(
            threshold=plan.delivery.threshold, min_volume=plan.delivery.min_lesion_volume
        )
        if space == "T1w":
            step.inputs.reference_file = str(plan.contrasts["T1w"])
            step.inputs.invert = True
            transform = "coregister_T1w"
        else:
            step.inputs.template, step.inputs.resolution = space, resolution
            if space not in fitted:
                fitted[space] = f"template_{space}"
                _fit_template(plan, fitted[space], space, resolution)
            transform = fitted[space]
        plan.add(step, name, mem_gb=1.0, threads=False)
        plan.connect("delineate", "probability_file", name, "probability_file")
        plan.connect(transform, "transform_file", name, "transform_file")


def _gather(plan: _Plan, name: str, ends: list[tuple[str, str]], target: tuple[str, str]) -> None:
    """Merge the outputs of several nodes into one list input."""
    if not ends:
        return
    merge = Node(Merge(len(ends)), name=name, run_without_submitting=True)
    for number, (node, output) in enumerate(ends, start=1):
        plan.workflow.connect(plan.workflow.get_node(node), output, merge, f"in{number}")
    plan.workflow.connect(merge, "out", plan.workflow.get_node(target[0]), target[1])


def _deliver(plan: _Plan) -> None:
    """Hand on what the checks of the alignments found, draw the figures, write everything."""
    steps = list(plan.steps)
    checked = [f"coregister_{name}" for name in plan.moving]
    checked += [*_template_nodes(steps), "check_brain"]
    faults = [(step, "faults") for step in checked]
    _gather(plan, "list_faults", faults, ("quality", "known_faults"))
    plan.add(
        DrawFigures(delivery=plan.delivery, moving_names=plan.moving),
        "draw",
        mem_gb=1.0,
        threads=False,
    )
    for output in ("brain", "labels", "rejected"):
        plan.connect("delineate", f"{output}_file", "draw", f"{output}_file")
    plan.connect("on_flair_head", "out_file", "draw", "flair_file")
    plan.connect("template", "transform_file", "draw", "template_transform")
    plan.connect("template", "trusted", "draw", "template_trusted")
    moved = [(f"on_flair_{contrast}", "out_file") for contrast in plan.moving]
    _gather(plan, "list_moving", moved, ("draw", "moving_files"))
    left_out = [(f"coregister_{contrast}", "left_out") for contrast in plan.moving]
    _gather(plan, "list_left_out", left_out, ("draw", "left_out"))
    _publish(plan, [*steps, "draw"])
    if plan.moving:
        plan.connect("list_left_out", "out", "publish", "left_out")


def _publish(plan: _Plan, steps: list[str]) -> None:
    contrasts = list(plan.contrasts)
    fits = [f"coregister_{name}" for name in plan.moving] + _template_nodes(steps)
    publish = PublishVisit(
        delivery=plan.delivery,
        fingerprint=plan.delivery.fingerprint,
        preproc_names=contrasts,
        space_names=[_space_name(*space) for space in plan.spaces.values()],
        transform_names=[_transform_name(step) for step in fits],
        step_names=steps,
    )
    plan.add(publish, "publish", mem_gb=0.5, threads=False)
    for output in ("brain", "probseg", "labels", "mask", "candidates", "rejected"):
        plan.connect("delineate", f"{output}_file", "publish", f"{output}_file")
    for output in ("table", "estimate"):
        plan.connect("estimate", f"{output}_file", "publish", f"{output}_file")
    plan.connect("quality", "quality_file", "publish", "quality_file")
    plan.connect("delineate", "ventricles_file", "publish", "ventricles_file")
    plan.connect("brain", "how", "publish", "brain_how")
    plan.connect("draw", "figure_files", "publish", "figure_files")
    preproc = [(f"on_flair_{name}", "out_file") for name in contrasts]
    _gather(plan, "list_preproc", preproc, ("publish", "preproc_files"))
    masks = [(space, "mask_file") for space in plan.spaces]
    _gather(plan, "list_spaces", masks, ("publish", "space_files"))
    _gather(
        plan,
        "list_transforms",
        [(step, "transform_file") for step in fits],
        ("publish", "transform_files"),
    )
    _gather(plan, "list_seconds", [(s, "seconds") for s in steps], ("publish", "step_seconds"))
    notes = Node(Merge(len(steps), no_flatten=True), "list_notes", run_without_submitting=True)
    for number, step in enumerate(steps, start=1):
        plan.workflow.connect(plan.workflow.get_node(step), "notes", notes, f"in{number}")
    plan.workflow.connect(notes, "out", plan.workflow.get_node("publish"), "step_notes")


def _template_nodes(steps: list[str]) -> list[str]:
    return [step for step in steps if step == "template" or step.startswith("template_")]


def _space_name(space: str, resolution: int) -> str:
    return space if space == "T1w" else f"{space}:res-{resolution}"


def _transform_name(step: str) -> str:
    kind, _, what = step.partition("_")
    if kind == "coregister":
        return f"{what} FLAIR rigid"
    return f"FLAIR {what or EMBEDDED} affine"
