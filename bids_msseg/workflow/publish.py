"""Last nodes of a visit's workflow: figures, results, and the archive for later runs."""

from __future__ import annotations

from nipype.interfaces.utility import Merge
from nipype.pipeline.engine import Node

from bids_msseg.bids.derivatives import OUTPUTS, preprocessed, single_images, transform
from bids_msseg.imaging.template import EMBEDDED
from bids_msseg.nodes.figures import DrawFigures
from bids_msseg.nodes.outputs import PublishVisit
from bids_msseg.nodes.store import StoreSteps
from bids_msseg.workflow.plan import VisitPlan, gather


def add_final_steps(plan: VisitPlan) -> None:
    """Pass on faults of the alignments, draw the figures and write all results."""
    steps = list(plan.steps)
    checked = [f"coregister_{name}" for name in plan.moving]
    checked += [*_template_nodes(steps), "check_brain"]
    faults = [(step, "faults") for step in checked]
    gather(plan, "list_faults", faults, ("quality", "known_faults"))
    plan.add(
        DrawFigures(context=plan.context, moving_names=plan.moving),
        "draw",
        mem_gb=1.0,
    )
    for output in ("brain", "labels", "rejected"):
        plan.connect("delineate", f"{output}_file", "draw", f"{output}_file")
    if plan.context.with_anatomy:
        plan.connect("volumes", "anatomy_file", "draw", "anatomy_file")
    plan.connect("on_flair_head", "out_file", "draw", "flair_file")
    plan.connect("template", "transform_file", "draw", "template_transform")
    plan.connect("template", "trusted", "draw", "template_trusted")
    moved = [(f"on_flair_{contrast}", "out_file") for contrast in plan.moving]
    gather(plan, "list_moving", moved, ("draw", "moving_files"))
    left_out = [(f"coregister_{contrast}", "left_out") for contrast in plan.moving]
    gather(plan, "list_left_out", left_out, ("draw", "left_out"))
    _publish(plan, [*steps, "draw"])
    if plan.moving:
        plan.connect("list_left_out", "out", "publish", "left_out")


def _publish(plan: VisitPlan, steps: list[str]) -> None:
    contrasts = list(plan.contrasts)
    fills = [(step, step.removeprefix("fill_")) for step in steps if step.startswith("fill_")]
    fits = [f"coregister_{name}" for name in plan.moving] + _template_nodes(steps)
    publish = PublishVisit(
        context=plan.context,
        fingerprint=plan.context.fingerprint,
        preproc_names=contrasts,
        space_names=[
            *(_space_name(*space) for space in plan.spaces.values()),
            *(f"{grid.world} {grid.name}" for grid in plan.context.extras.grids),
        ],
        transform_names=[_transform_name(step) for step in fits],
        filled_names=[name for _, name in fills],
        step_names=steps,
    )
    plan.add(publish, "publish", mem_gb=0.5)
    for output in single_images(plan.context.visit, plan.context.extras):
        step = "volumes" if output == "anatomy" else "delineate"
        plan.connect(step, f"{output}_file", "publish", f"{output}_file")
    for output in ("table", "estimate"):
        step = "delineate" if plan.mask_given else "estimate"
        plan.connect(step, f"{output}_file", "publish", f"{output}_file")
    if plan.context.with_anatomy:
        plan.connect("volumes", "volumes_file", "publish", "volumes_file")
    plan.connect("delineate", "excluded_ml", "publish", "excluded_ml")
    plan.connect("quality", "quality_file", "publish", "quality_file")
    plan.connect("brain", "how", "publish", "brain_how")
    plan.connect("draw", "figure_files", "publish", "figure_files")
    preproc = [(f"on_flair_{name}", "out_file") for name in contrasts]
    gather(plan, "list_preproc", preproc, ("publish", "preproc_files"))
    masks = [*plan.spaces, *(f"space_{grid.name}" for grid in plan.context.extras.grids)]
    gather(
        plan, "list_spaces", [(step, "mask_file") for step in masks], ("publish", "space_files")
    )
    if plan.context.extras.roi and "T1w" in plan.contrasts:
        plan.connect("space_T1w", "mask_file", "publish", "roi_file")
    regions = [(step, "rows_file") for step in steps if step.startswith("atlas_")]
    gather(plan, "list_atlases", regions, ("publish", "atlas_files"))
    filled = [(step, "out_file") for step, _ in fills]
    gather(plan, "list_filled", filled, ("publish", "filled_files"))
    gather(
        plan,
        "list_transforms",
        [(step, "transform_file") for step in fits],
        ("publish", "transform_files"),
    )
    gather(plan, "list_seconds", [(s, "seconds") for s in steps], ("publish", "step_seconds"))
    notes = Node(Merge(len(steps), no_flatten=True), "list_notes", run_without_submitting=True)
    for number, step in enumerate(steps, start=1):
        plan.workflow.connect(plan.workflow.get_node(step), "notes", notes, f"in{number}")
    plan.workflow.connect(notes, "out", plan.workflow.get_node("publish"), "step_notes")
    if not plan.stored:
        _store(plan, fits)


def _store(plan: VisitPlan, fits: list[str]) -> None:
    """Store the outputs of steps before the delineation that later steps need."""
    later = plan.later_than("delineate")
    first = [step for step in plan.steps if step not in later]
    selected = {step: ["notes", "seconds"] for step in first}
    for step, output, end in plan.links:
        if step in selected and end in later and output not in selected[step]:
            selected[step].append(output)
    node = StoreSteps(
        step_names=first,
        selected_outputs=selected,
        published=_published(plan, fits),
        fingerprint=plan.context.maps_fingerprint,
        versions=dict(plan.context.versions),
    )
    plan.add(node, "store", mem_gb=0.5)
    gather(plan, "list_outputs", [(s, "outputs_file") for s in first], ("store", "outputs_files"))
    plan.connect("store", "archive_file", "publish", "intermediate_file")


def _published(plan: VisitPlan, fits: list[str]) -> dict[str, str]:
    """Return the outputs that OUT holds unchanged, with their paths relative to OUT."""
    published = {f"on_flair_{name}.out_file": preprocessed(name) for name in plan.contrasts}
    if plan.context.with_anatomy:
        published["volumes.anatomy_file"] = OUTPUTS["anatomy"]
    for step in fits:
        start, end, _ = _transform_name(step).split()
        published[f"{step}.transform_file"] = transform(start, end)
    out_dir, visit = plan.context.out_dir, plan.context.visit
    return {
        name: output.path(out_dir, visit, output.extensions[0]).relative_to(out_dir).as_posix()
        for name, output in published.items()
    }


def _template_nodes(steps: list[str]) -> list[str]:
    return [step for step in steps if step == "template" or step.startswith("template_")]


def _space_name(space: str, resolution: int) -> str:
    return space if space == "T1w" else f"{space}:res-{resolution}"


def _transform_name(step: str) -> str:
    kind, _, what = step.partition("_")
    if kind == "coregister":
        return f"{what} FLAIR rigid"
    return f"FLAIR {what or EMBEDDED} affine"
