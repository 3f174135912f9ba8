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
    """Result of an image check."""

    measures: Mapping[str, float]  # with DISTANCE if it could be computed
    faults: tuple[str, ...]  # those of earlier steps come last


def check_images(
    stack: Stack,
    brain: Volume,
    spacings: Mapping[str, Sequence[float]],
    *,
    training: TrainingVisits | None = None,
    known_faults: Sequence[str] = (),
) -> ImageCheck:
    """Compare a visit with the training visits; ``spacings`` (mm) of the images as acquired."""
    measures = measure_visit(stack.data, stack.present, stack.brain, mask=brain, spacings=spacings)
    faults = (*find_faults(measures, training), *known_faults)
    distance = training.distance(measures) if training else None
    if distance is not None:
        measures[DISTANCE] = distance
    return ImageCheck(measures, faults)
