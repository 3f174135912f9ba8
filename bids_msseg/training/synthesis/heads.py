"""Whole synthetic heads, whose false candidates CNN-2 learns from."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from bids_msseg.models.inference import BACKGROUND
from bids_msseg.training.data.visits import LabelledVisit
from bids_msseg.training.synthesis.dataset import SyntheticDataset
from bids_msseg.training.synthesis.plan import CHANNELS
from bids_msseg.training.synthesis.tissues import LabelMap

EDGE = 208
"""Edge of the cube that holds a head, in voxels of 1 mm."""
SITE = "synthetic"


def synthesize_head(label_map: LabelMap, seed: int, number: int) -> LabelledVisit:
    """Make a labelled visit, 1 mm, cropped to the brain; it depends only on the arguments."""
    channels, share, _ = SyntheticDataset([label_map], seed, size=EDGE)[number]
    images, (flair, t1w, t2w) = channels[:CHANNELS].numpy(), channels[CHANNELS:, 0, 0, 0] > 0
    brain = images[0] != BACKGROUND
    box = ndimage.find_objects(brain.astype(np.uint8))[0]
    return LabelledVisit(
        head_name(number),
        SITE,
        images[:, *box].astype(np.float16),
        (bool(flair), bool(t1w), bool(t2w)),
        brain[box],
        share[0].numpy()[box].astype(np.float16),
        slice_mm=1.0,
    )


def head_name(number: int) -> str:
    """Name a head by its number, from 0."""
    return f"synthetic-{number:03d}"
