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
    """Compute the load interval from the final probability on the FLAIR as acquired."""
    return model.interval(sweep_volumes(probability.data, probability.voxel_volume))


def lesion_confidence(status: str, p_final: float, model: ConfidenceModel | None) -> float | None:
    """Return the confidence of a kept lesion; None if it is rejected or without a model."""
    return None if model is None or status != "kept" else model.confidence(p_final)
