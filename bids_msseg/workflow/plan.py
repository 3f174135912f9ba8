"""Plan of a visit's workflow: settings, names, and the graph under construction."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nipype.interfaces.utility import Merge
from nipype.pipeline.engine import Node, Workflow

from bids_msseg.bids.visit import Visit
from bids_msseg.nodes.context import DerivativesContext
from bids_msseg.segmenters.base import Segmenter
from bids_msseg.spaces import NATIVE_SPACES

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
    "volumes": "measuring the anatomy",
    "delineate": "listing lesions",
    "estimate": "estimating the load",
    "on_flair": "writing images",
    "space": "other spaces",
    "atlas": "measuring regions",
    "fill": "filling lesions",
    "draw": "drawing figures",
    "store": "storing intermediate results",
    "publish": "writing results",
}
"""Description of the running node by the start of its name."""

LIGHT_GB = 0.2
"""Memory of a step that only reads the results of an earlier run."""


def step_label(step: str) -> str | None:
    """Describe in words what a node does; return None for nodes that only gather."""
    return next((label for start, label in STEP_LABELS.items() if step.startswith(start)), None)


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings that shape the workflow of a visit, apart from its images."""

    model_file: Path  # not read if there is a segmenter
    skull_stripped: str = "auto"
    fast: bool = False
    seed: int = 0
    device: str = "auto"
    threads: int = 1  # per node
    spaces: tuple[tuple[str, int | None], ...] = ()  # name and resolution of further masks
    measure: bool = False
    calibration: str = ""  # digest of the files beside the weights
    mask_values: tuple[int, ...] = ()  # lesion in given masks; empty: all above 0
    segmenter: Segmenter | None = None  # replaces the cascade


def visit_workflow_name(visit: Visit) -> str:
    """Return the name of the workflow of a visit, which is also its folder name."""
    # BIDS labels may contain a plus but no underscore, nipype's names the opposite
    return visit.key.replace("-", "_").replace("+", "_plus_")


def workflow_name(context: DerivativesContext) -> str:
    """Return the name of a visit's workflow, which differs if it starts from an archive."""
    name = visit_workflow_name(context.visit)
    return name if context.intermediate is None else f"{name}_cut"


@dataclass(frozen=True, slots=True)
class VisitPlan:
    """A workflow under construction."""

    workflow: Workflow
    context: DerivativesContext
    settings: Settings
    stored: frozenset[str] = frozenset()  # steps whose outputs are read from the archive
    steps: list[str] = field(default_factory=list)  # node names in order
    links: list[tuple[str, str, str]] = field(default_factory=list)  # step, output, later step

    @property
    def contrasts(self) -> dict[str, Path]:
        """Images of the visit by contrast."""
        return self.context.visit.contrasts

    @property
    def mask_given(self) -> bool:
        """Whether a given mask replaces the lesions of the networks."""
        return self.context.visit.lesion_mask is not None

    @property
    def moving(self) -> list[str]:
        """Contrasts that have to be aligned with FLAIR."""
        return [name for name in self.contrasts if name != "FLAIR"]

    @property
    def spaces(self) -> dict[str, tuple[str, int]]:
        """Spaces other than that of the FLAIR, each once, by the name of their node."""
        spaces: dict[str, tuple[str, int]] = {}
        for space, resolution in self.settings.spaces:
            if space == "T1w" and "T1w" in self.contrasts:
                spaces["space_T1w"] = (space, 1)
            elif space not in NATIVE_SPACES:
                grid = resolution or 1
                spaces[f"space_{space}" + (f"_{grid}" if grid != 1 else "")] = (space, grid)
        return spaces

    @property
    def masks(self) -> dict[str, tuple[str, int]]:
        """Spaces of lesion masks, including T1w if another step needs it."""
        extras = self.context.extras
        needed = (extras.filled or extras.roi) and "T1w" in self.contrasts
        return {**self.spaces, **({"space_T1w": ("T1w", 1)} if needed else {})}

    def add(self, interface: Any, name: str, *, mem_gb: float, max_threads: int = 1) -> Node:
        """Add a node that declares its memory and threads; ``max_threads`` is what it can use."""
        count = min(self.settings.threads, max_threads)
        is_stored = name in self.stored
        if is_stored:
            interface.inputs.stored = str(self.context.intermediate)
            count, mem_gb = 1, LIGHT_GB
        interface.inputs.threads = count
        interface.inputs.measure = self.settings.measure
        # stored outputs may be in OUT, and the work folder may belong to another OUT
        overwrite = True if is_stored else None
        node = Node(interface, name=name, mem_gb=mem_gb, n_procs=count, overwrite=overwrite)
        self.workflow.add_nodes([node])
        self.steps.append(name)
        return node

    def connect(self, start: str, output: str, end: str, target: str) -> None:
        """Connect two nodes by name; a node with stored outputs needs no inputs."""
        if end in self.stored:
            return
        self.links.append((start, output, end))
        nodes = self.workflow
        nodes.connect(nodes.get_node(start), output, nodes.get_node(end), target)

    def later_than(self, step: str) -> frozenset[str]:
        """Return a step and all steps that depend on it."""
        later = {step}
        while more := {end for start, _, end in self.links if start in later} - later:
            later |= more
        return frozenset(later)


def gather(
    plan: VisitPlan, name: str, ends: list[tuple[str, str]], target: tuple[str, str]
) -> None:
    """Merge the outputs of several nodes into one list input."""
    if not ends or target[0] in plan.stored:
        return
    plan.links.extend((node, output, target[0]) for node, output in ends)
    merge = Node(Merge(len(ends)), name=name, run_without_submitting=True)
    for number, (node, output) in enumerate(ends, start=1):
        plan.workflow.connect(plan.workflow.get_node(node), output, merge, f"in{number}")
    plan.workflow.connect(merge, "out", plan.workflow.get_node(target[0]), target[1])
