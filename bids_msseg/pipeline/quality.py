"""The check of a visit's images; see :mod:`bids_msseg.imaging.quality`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bids_msseg.imaging.normalise import Stack
from bids_msseg.imaging.quality import TrainingVisits, find_faults
from bids_msseg.imaging.quality_measures import measure_visit
from bids_msseg.imaging.volume import Volume

DISTANCE = "training_distance"


@dataclass(frozen=True, slots=True)
class ImageCheck:
    """What a check of images found.

    Attributes
    ----------
    measures : mapping of str to float
        With :data:`DISTANCE` from the training visits, where there is one.
    faults : tuple of str
        What is unusual; those of earlier steps come last.
    """

    measures: Mapping[str, float]
    faults: tuple[str, ...]


def check_images(
    stack: Stack,
    brain: Volume,
    spacings: Mapping[str, Sequence[float]],
    *,
    training: TrainingVisits | None = None,
    known_faults: Sequence[str] = (),
) -> ImageCheck:
    """Compare the images with those of the training.

    Parameters
    ----------
    stack : Stack
    brain : Volume
        Brain mask on the conformed FLAIR.
    spacings : mapping of contrast to (x, y, z)
        Voxel edges of the images as acquired, mm.
    training : TrainingVisits, optional
    known_faults : sequence of str
        Of alignments and of the brain mask.

    Returns
    -------
    ImageCheck
    """
    measures = measure_visit(stack.data, stack.present, stack.brain, mask=brain, spacings=spacings)
    faults = (*find_faults(measures, training), *known_faults)
    distance = training.distance(measures) if training else None
    if distance is not None:
        measures[DISTANCE] = distance
    return ImageCheck(measures, faults)
