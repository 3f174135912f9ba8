"""Smooth random fields."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from bids_msseg.training.synthesis.plan import Array


def smooth_fields(rng: np.random.Generator, edge: int, width: float, count: int) -> Array:
    """Draw smooth fields (count, edge, edge, edge) with unit variance at knots every ``width``."""
    knots = max(2, round(edge / width) + 1)
    noise = rng.standard_normal((1, count, knots, knots, knots), dtype=np.float32)
    coarse = torch.from_numpy(noise)
    field = F.interpolate(coarse, size=(edge, edge, edge), mode="trilinear", align_corners=True)
    values: Array = field[0].numpy()
    return values


def smooth_field(rng: np.random.Generator, edge: int, width: float) -> Array:
    """Draw one smooth random field; see :func:`smooth_fields`."""
    values: Array = smooth_fields(rng, edge, width, 1)[0]
    return values
