"""Training plan of a network, and one line of its training log."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field


def _numeric(value: Any) -> Any:
    """Convert text: YAML reads ``1e3`` as text."""
    return float(value) if isinstance(value, str) else value


Integer = Annotated[int, BeforeValidator(_numeric)]
Count = Annotated[Integer, Field(ge=1)]


@dataclass(frozen=True, slots=True)
class FitPlan:
    """Length, learning rate and other settings of the training of one network."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    steps: Count
    batch: Count = 2
    accumulate: Count = 1  # batches whose gradients a step averages
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 2e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    schedule: Literal["polynomial", "constant"] = "polynomial"  # polynomial: power 0.9
    cooldown: Integer = 0  # last steps of the constant schedule, with a falling rate
    restart: Integer = 0  # step of a warm restart (Loshchilov and Hutter 2017), 0 for none
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.99
    seed: Integer = 0
    workers: Integer = 1
    checkpoint_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Report:
    """One line of a training log: means since the last line; ``seconds`` is for one step."""

    step: int
    steps: int
    loss: float
    seconds: float
    dice: float = math.nan

    @property
    def seconds_left(self) -> float:
        """Remaining wall time in s if every further step takes as long."""
        return (self.steps - self.step) * self.seconds
