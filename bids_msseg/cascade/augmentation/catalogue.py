"""All steps by name, and programs as YAML's lists and mappings.

A step is written as its name with its fields, a container with its steps::

    - Rotate: {degrees: 15, p: 0.5}
    - OneOf: [GaussianBlur, {RicianNoise: {sd: [0, 0.3]}}]
    - Sometimes: {p: 0.3, steps: [Ghosting, GibbsRinging]}

A program is such a list, for the training, or a mapping of splits to lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from bids_msseg.cascade.augmentation import artefacts, geometry, intensity, language
from bids_msseg.cascade.augmentation.language import SPLITS, Container, Operation, Program
from bids_msseg.cascade.augmentation.sample import SubImage
from bids_msseg.cascade.augmentation.standard import AugmentPlan, apply_plan
from bids_msseg.errors import UsageError


@dataclass(frozen=True, slots=True)
class PlanFields:
    """Rule of a field that holds an :class:`AugmentPlan`, or its numbers by name."""

    def read(self, value: object) -> AugmentPlan:
        """Read a plan."""
        if isinstance(value, AugmentPlan):
            return value
        if not isinstance(value, Mapping):
            raise TypeError(f"{value!r} is not a mapping of names to numbers")
        return AugmentPlan(**{str(name): float(number) for name, number in value.items()})

    def __str__(self) -> str:
        return f"holds some of {', '.join(item.name for item in fields(AugmentPlan))}"


@dataclass(frozen=True, slots=True)
class Standard(Operation):
    """The plan of fixed form as one step.

    Sub-images leave it with the edge that the net reads, so that it comes first in a program.

    Attributes
    ----------
    plan : AugmentPlan
    """

    plan: AugmentPlan = field(default_factory=AugmentPlan, metadata={"rule": PlanFields()})

    def needs_margin(self) -> bool:
        """Say yes."""
        return True

    def _apply(self, sample: SubImage, rng: np.random.Generator) -> SubImage:
        return apply_plan(sample, self.plan, rng)


OPERATIONS: Mapping[str, type[Operation]] = {
    kind.__name__: kind
    for kind in (
        language.Sequence,
        language.OneOf,
        language.Sometimes,
        Standard,
        geometry.Affine,
        geometry.Rotate,
        geometry.ResizeDim,
        geometry.ResizeScale,
        geometry.Flip,
        geometry.Mirror,
        geometry.Transpose,
        geometry.GridDistortion,
        geometry.ElasticTransform,
        geometry.OpticalDistortion,
        geometry.CenterCrop,
        geometry.RandomCrop,
        intensity.GaussianBlur,
        intensity.AdditiveLaplaceNoise,
        intensity.AdditivePoissonNoise,
        intensity.GammaContrast,
        intensity.Brightness,
        intensity.Contrast,
        intensity.CoarseDropout,
        intensity.Salt,
        intensity.Pepper,
        intensity.SaltAndPepper,
        intensity.Normalize,
        intensity.Clip,
        intensity.ToFloat32,
        intensity.DivBy255,
        intensity.ScaleTo,
        intensity.ScaleFromTo,
        artefacts.BiasField,
        artefacts.RicianNoise,
        artefacts.ThickSlices,
        artefacts.Ghosting,
        artefacts.Motion,
        artefacts.GibbsRinging,
        artefacts.RegistrationJitter,
        artefacts.BrainMaskFaults,
        artefacts.ContrastDropout,
        artefacts.FadeLesions,
    )
}
"""Every step that a program may name."""


def to_dict(step: Operation) -> dict[str, Any]:
    """Write a step as lists, mappings, numbers and text, with all its fields.

    Examples
    --------
    >>> to_dict(geometry.Rotate(degrees=20, p=0.5))
    {'Rotate': {'degrees': 20.0, 'p': 0.5}}
    """
    names = [item.name for item in fields(step)]
    content = {name: _plain(getattr(step, name)) for name in sorted(names, key="p".__eq__)}
    return {type(step).__name__: content}


def _plain(value: Any) -> Any:
    if isinstance(value, Operation):
        return to_dict(value)
    if isinstance(value, AugmentPlan):
        return asdict(value)
    return [_plain(part) for part in value] if isinstance(value, tuple) else value


def from_dict(written: object) -> Operation:
    """Read a step: its name, or its name with its fields.

    Raises
    ------
    UsageError
        If there is no such step or field, or a field holds what it may not.

    Examples
    --------
    >>> from_dict({"OneOf": ["Mirror", {"Rotate": {"degrees": 20}}]}).steps[1].degrees
    20.0
    """
    name, content = _one_entry(written)
    kind = OPERATIONS.get(name)
    if kind is None:
        raise UsageError(
            f"there is no augmentation called {name}",
            hint=f"use some of: {', '.join(sorted(OPERATIONS))}",
        )
    values = _fields(kind, content)
    if "steps" in values:
        values["steps"] = _read_steps(values["steps"], f"the steps of {name}")
    return kind(**values)


def _one_entry(written: object) -> tuple[str, object]:
    if isinstance(written, str):
        return written, {}
    if isinstance(written, Mapping) and len(written) == 1:
        name, content = next(iter(written.items()))
        return str(name), content
    raise UsageError(
        f"not an augmentation: {written!r}", hint="write a name, or one name with its fields"
    )


def _fields(kind: type[Operation], content: object) -> dict[str, Any]:
    """Check names of fields; a container may be given its list of steps alone."""
    known = [item.name for item in fields(kind)]
    if content is None:
        return {}
    if isinstance(content, list) and issubclass(kind, Container):
        return {"steps": content}
    if not isinstance(content, Mapping):
        raise UsageError(
            f"the augmentation {kind.__name__} is given {content!r} for its fields",
            hint=f"name fields, some of: {', '.join(known)}",
        )
    unknown = sorted(str(name) for name in content if name not in known)
    if unknown:
        raise UsageError(
            f"the augmentation {kind.__name__} has no {', '.join(unknown)}",
            hint=f"use some of: {', '.join(known)}",
        )
    return {str(name): value for name, value in content.items()}


def _read_steps(written: object, what: str) -> tuple[Operation, ...]:
    if not isinstance(written, list | tuple):
        raise UsageError(f"{what} are not a list", hint="write a list of augmentations")
    return tuple(step if isinstance(step, Operation) else from_dict(step) for step in written)


def write_program(program: Program) -> dict[str, list[dict[str, Any]]]:
    """Write a program as a mapping of all splits to lists of steps."""
    return {split: [to_dict(step) for step in program.steps(split)] for split in SPLITS}


def read_program(written: object) -> Program:
    """Read a program: a list of steps for the training, or a mapping of splits to lists.

    Raises
    ------
    UsageError
        If it holds something that does not exist.
    """
    if not isinstance(written, Mapping):
        return Program(_read_steps(written, "the augmentations"))
    unknown = sorted(str(name) for name in written if name not in SPLITS)
    if unknown:
        raise UsageError(
            f"there is no augmentation for {', '.join(unknown)}",
            hint=f"write a list, or a mapping with some of: {', '.join(SPLITS)}",
        )
    parts = {
        str(split): _read_steps(() if steps is None else steps, f"the augmentations for {split}")
        for split, steps in written.items()
    }
    return Program(**parts)


def standard_program(plan: AugmentPlan | None = None) -> Program:
    """Make the program that does in training what a plan of fixed form does, digit for digit."""
    return Program((Standard(plan or AugmentPlan()),))
