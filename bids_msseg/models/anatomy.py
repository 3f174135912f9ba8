"""The classes of the anatomy head."""

from __future__ import annotations

from enum import IntEnum


class Anatomy(IntEnum):
    """Classes of the anatomy head, one per voxel of 2 mm."""

    BACKGROUND = 0
    EXTRA_CEREBRAL = 1
    SULCAL_FLUID = 2
    VENTRICLE = 3
    CORTEX = 4
    WHITE_MATTER = 5
    DEEP_GREY = 6
    HIPPOCAMPUS_AMYGDALA = 7
    CEREBELLAR_CORTEX = 8
    CEREBELLAR_WHITE = 9
    BRAINSTEM = 10
    CHOROID_PLEXUS = 11


CLASSES = len(Anatomy)
