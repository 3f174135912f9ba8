"""Load interval and lesion confidence; see :mod:`bids_msseg.lesions.confidence`."""

from __future__ import annotations

from bids_msseg.imaging.volume import Volume
from bids_msseg.lesions.confidence.uncertainty import (
    ConfidenceModel,
    LoadInterval,
    LoadModel,
    sweep_volumes,
)


def load_interval(probability: Volume, model: LoadModel) -> LoadInterval:
    """Compute the interval of the lesion load.

    ``probability`` is the final probability on the grid of the FLAIR as acquired.
    """
    return model.interval(sweep_volumes(probability.data, probability.voxel_volume))


def lesion_confidence(status: str, p_final: float, model: ConfidenceModel | None) -> float | None:
    """Return the confidence of a kept lesion; None if rejected or without a model.

    ``status`` is ``kept`` or ``rejected``; ``p_final`` is the mean final probability inside the
    lesion. The model was fitted to kept lesions only.

    Examples
    --------
    >>> lesion_confidence("rejected", 0.9, ConfidenceModel(1.0, 0.0, 50, 9)) is None
    True
    """
    return None if model is None or status != "kept" else model.confidence(p_final)
