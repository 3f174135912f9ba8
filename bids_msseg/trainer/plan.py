"""How long and how fast a network is trained, and a line of its log."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FitPlan:
    """How long and how fast to train one network.

    Attributes
    ----------
    steps, batch : int
    accumulate : int
        Batches whose gradients are averaged in one step. Several processes that train one network
        share them out, so the result does not depend on how many there are.
    learning_rate, weight_decay : float
        Of AdamW; the rate falls to zero as (1 - step / steps) ** 0.9 after a short warm-up.
    schedule : {"polynomial", "constant"}
        Whether the rate falls from the first step on, or is held until the last ``cooldown``
        steps, in which it falls to zero. A training at a constant rate may be prolonged.
    cooldown : int
        See ``schedule``.
    restart : int
        Step at which the rate, having fallen to zero, starts anew (a warm restart; Loshchilov and
        Hutter 2017, arXiv 1608.03983); 0 for never.
    ema : float
        Decay of the running mean of the weights that is kept.
    seed : int
    workers : int
        Processes that cut and augment sub-images.
    checkpoint_s : float
        Seconds between checkpoints.
    """

    steps: int
    batch: int = 2
    accumulate: int = 1
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    schedule: str = "polynomial"
    cooldown: int = 0
    restart: int = 0
    ema: float = 0.99
    seed: int = 0
    workers: int = 1
    checkpoint_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Report:
    """One line of a training log.

    Attributes
    ----------
    step, steps : int
        Steps done, and to do in all.
    loss, dice : float
        Means since the last line.
    seconds : float
        Wall time of a step, s.

    Examples
    --------
    >>> Report(step=25, steps=100, loss=0.9, seconds=2.0).seconds_left
    150.0
    """

    step: int
    steps: int
    loss: float
    seconds: float
    dice: float = math.nan

    @property
    def seconds_left(self) -> float:
        """Wall time that is left if the other steps take as long, s."""
        return (self.steps - self.step) * self.seconds
