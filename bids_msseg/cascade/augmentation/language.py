"""Steps, containers of steps, and programs for the splits of a training.

A step is a frozen value and a pure function: (sub-image, random stream) in, sub-image out. The
containers do what ECVL's sequential and one-of containers do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence as Many
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from bids_msseg.cascade.augmentation.rules import Rule, number, word
from bids_msseg.cascade.augmentation.sample import SubImage, fit
from bids_msseg.errors import UsageError

Split = Literal["training", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
CONTRASTS = ("FLAIR", "T1w", "T2w")


@dataclass(frozen=True, slots=True)
class Operation(ABC):
    """One step.

    Attributes
    ----------
    p : float, default 1
        Chance that the step is taken, for each sub-image.

    Raises
    ------
    UsageError
        On making one, if a field holds what it may not.
    """

    _: KW_ONLY
    p: float = number(1, 0, 1)

    def __post_init__(self) -> None:
        for item in fields(self):
            rule: Rule = item.metadata["rule"]
            try:
                value = rule.read(getattr(self, item.name))
            except (TypeError, ValueError) as error:
                raise UsageError(
                    f"wrong {item.name} of the augmentation {type(self).__name__}: {error}",
                    hint=f"{item.name} {rule}",
                ) from error
            object.__setattr__(self, item.name, value)

    def __call__(self, sample: SubImage, rng: np.random.Generator) -> SubImage:
        """Take the step, or leave the sub-image as it is."""
        if self.p < 1 and rng.random() >= self.p:
            return sample
        return self._apply(sample, rng)

    def needs_margin(self) -> bool:
        """Whether the step reads beyond the edges of what the net will see."""
        return False

    @abstractmethod
    def _apply(self, sample: SubImage, rng: np.random.Generator, /) -> SubImage: ...


@dataclass(frozen=True, slots=True)
class IntensityOperation(Operation):
    """A step that changes images alone, each contrast by amounts of its own.

    Attributes
    ----------
    contrasts : str, default "each"
        ``each``; ``one``, drawn among those that are there; or ``FLAIR``, ``T1w``, ``T2w``.
    """

    _: KW_ONLY
    contrasts: str = word("each", "one", *CONTRASTS)

    def _apply(self, sample: SubImage, rng: np.random.Generator) -> SubImage:
        images = list(sample.images)
        for channel in self._chosen(sample.present, rng):
            images[channel] = self._change(images[channel], sample, rng)
        return replace(sample, images=torch.stack(images))

    def _chosen(self, present: Tensor, rng: np.random.Generator) -> list[int]:
        there = [channel for channel, flag in enumerate(present.tolist()) if flag > 0]
        if self.contrasts == "one":
            return [there[int(rng.integers(len(there)))]] if there else []
        if self.contrasts in CONTRASTS:
            return [channel for channel in there if CONTRASTS[channel] == self.contrasts]
        return there

    @abstractmethod
    def _change(self, image: Tensor, sample: SubImage, rng: np.random.Generator, /) -> Tensor:
        """Change one contrast, shape (X, Y, Z)."""


@dataclass(frozen=True, slots=True)
class Steps:
    """Rule of a field that holds steps."""

    def read(self, value: object) -> tuple[Operation, ...]:
        """Refuse what is not a step."""
        if not isinstance(value, list | tuple) or not all(
            isinstance(step, Operation) for step in value
        ):
            raise TypeError("not a list of augmentations")
        return tuple(value)

    def __str__(self) -> str:
        return "is a list of augmentations"


@dataclass(frozen=True, slots=True)
class Container(Operation):
    """A step made of steps.

    Attributes
    ----------
    steps : sequence of Operation
    """

    steps: tuple[Operation, ...] = field(default=(), metadata={"rule": Steps()})

    def needs_margin(self) -> bool:
        """Whether one of the steps reads beyond the edges of what the net will see."""
        return any(step.needs_margin() for step in self.steps)


@dataclass(frozen=True, slots=True)
class Sequence(Container):
    """All steps, one after the other."""

    def _apply(self, sample: SubImage, rng: np.random.Generator) -> SubImage:
        for step in self.steps:
            sample = step(sample, rng)
        return sample


@dataclass(frozen=True, slots=True)
class Sometimes(Sequence):
    """All steps or none; a sequence that is taken every other time unless told otherwise."""

    _: KW_ONLY
    p: float = number(0.5, 0, 1)


@dataclass(frozen=True, slots=True)
class OneOf(Container):
    """One of the steps, each as likely as the others; its own chance counts after that."""

    def _apply(self, sample: SubImage, rng: np.random.Generator) -> SubImage:
        if not self.steps:
            return sample
        return self.steps[int(rng.integers(len(self.steps)))](sample, rng)


@dataclass(frozen=True, slots=True)
class Program:
    """What is done to the sub-images of each split; nothing unless something is given.

    Attributes
    ----------
    training, validation, test : sequence of Operation
    """

    training: tuple[Operation, ...] = ()
    validation: tuple[Operation, ...] = ()
    test: tuple[Operation, ...] = ()

    def __post_init__(self) -> None:
        for split in SPLITS:
            try:
                steps = Steps().read(getattr(self, split))
            except TypeError as error:
                raise UsageError(
                    f"the augmentation for {split} is {error}", hint="give a list of augmentations"
                ) from error
            object.__setattr__(self, split, steps)

    def steps(self, split: Split) -> tuple[Operation, ...]:
        """Return the steps for one split."""
        return {"training": self.training, "validation": self.validation, "test": self.test}[split]

    def __call__(
        self, sample: SubImage, rng: np.random.Generator, split: Split = "training"
    ) -> SubImage:
        """Run the steps for one split, and bring the sub-image to its size.

        It is brought there as soon as no later step reads beyond its edges, which saves time.
        """
        steps = self.steps(split)
        for place, step in enumerate(steps):
            if not _any_needs_margin(steps[place:]):
                sample = _to_size(sample)
            sample = step(sample, rng)
        return _to_size(sample)


def _any_needs_margin(steps: Many[Operation]) -> bool:
    return any(step.needs_margin() for step in steps)


def _to_size(sample: SubImage) -> SubImage:
    return sample if sample.size is None else fit(sample, sample.size)
