"""Interval of a lesion load, confidence of a lesion: :mod:`bids_msseg.lesions.confidence`."""

from __future__ import annotations

from bids_msseg.imaging.volume import Volume
from bids_msseg.lesions.confidence.uncertainty import (
    ConfidenceModel,
    LoadInterval,
    LoadModel,
    sweep_volumes,
)


def load_interval(probability: Volume, model: LoadModel) -> LoadInterval:
    """Give the lesion load an interval.

    Parameters
    ----------
    probability : Volume
        Final probability on the grid of the FLAIR as acquired.
    model : LoadModel

    Returns
    -------
    LoadInterval
    """
    return model.interval(sweep_volumes(probability.data, probability.voxel_volume))


def lesion_confidence(status: str, p_final: float, model: ConfidenceModel | None) -> float | None:
    """Give a lesion a confidence; only kept lesions were met when it was learnt.

    Parameters
    ----------
    status : {"kept", "rejected"}
    p_final : float
        Mean final probability inside.
    model : ConfidenceModel or None

    Returns
    -------
    float or None
        None for rejected candidates, and where there is no model.

    Examples
    --------
    >>> lesion_confidence("rejected", 0.9, ConfidenceModel(1.0, 0.0, 50, 9)) is None
    True
    """
    return None if model is None or status != "kept" else model.confidence(p_final)
