"""Classes of the anatomy head, and labels of the segmentation made from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Label:
    """One label of a segmentation, as in the table of a BIDS ``dseg``."""

    name: str
    abbreviation: str
    colour: str  # #rrggbb, from FreeSurfer's table if it has the structure
    mapping: int | None  # value among the common image-derived labels of BIDS


LABELS: Mapping[Anatomy, Label] = {
    Anatomy.SULCAL_FLUID: Label("sulcal and cisternal fluid", "SCSF", "#3c3c3c", 3),
    Anatomy.VENTRICLE: Label("ventricles", "VENT", "#781286", 3),
    Anatomy.CORTEX: Label("cerebral cortex", "CGM", "#cd3e4e", 8),
    Anatomy.WHITE_MATTER: Label("cerebral white matter", "WM", "#f5f5f5", 2),
    Anatomy.DEEP_GREY: Label("thalamus and basal ganglia", "DGM", "#7abadc", 9),
    Anatomy.HIPPOCAMPUS_AMYGDALA: Label(
        "hippocampus, amygdala and nucleus accumbens", "HA", "#dcd814", 9
    ),
    Anatomy.CEREBELLAR_CORTEX: Label("cerebellar cortex", "CBGM", "#e69422", 11),
    Anatomy.CEREBELLAR_WHITE: Label("cerebellar white matter", "CBWM", "#dcf8a4", 11),
    Anatomy.BRAINSTEM: Label("brainstem and ventral diencephalon", "BS", "#779fb0", 10),
    Anatomy.CHOROID_PLEXUS: Label("choroid plexus", "CP", "#00c8c8", None),
}
"""Labels inside a brain mask; a label image holds the values of :class:`Anatomy`."""
