"""What weights know of their own errors: ``<name>.calibration.json`` beside them.

``msseg-train`` writes it from its out-of-fold predictions. It is a file of its own so that it can
be read, and written anew, without touching the weights; the weights' SHA-256 ties it to them.

Public names: :class:`Calibration`, :func:`calibration_path`, :func:`read_calibration`,
:func:`write_calibration`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bids_msseg.bids.files import write_json
from bids_msseg.imaging.quality import TrainingVisits
from bids_msseg.lesions.confidence.uncertainty import ConfidenceModel, LoadModel

FORMAT = "bids_msseg-calibration-1"
ENDING = ".calibration.json"
DIGITS = 5


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was learnt from visits that the nets had not seen.

    Attributes
    ----------
    load : LoadModel or None
    confidence : ConfidenceModel or None
    training : TrainingVisits or None
        What the training's own images look like.
    coverage : mapping of str to (int, int)
        By site and for ``all``: how many intervals held the true load, of how many, each made
        without the patient.
    auc : float or None
        How well the confidence, made without the patient, tells true lesions from false ones.
    reason : str
        Why something is missing; empty where nothing is.
    digest : str
        SHA-256 of the file; empty where there is none.
    """

    load: LoadModel | None = None
    confidence: ConfidenceModel | None = None
    training: TrainingVisits | None = None
    coverage: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    auc: float | None = None
    reason: str = ""
    digest: str = ""

    def of_fast(self) -> Calibration:
        """Return what still holds where ``--fast`` leaves nets out: what images look like."""
        why = "intervals and confidence were measured without --fast"
        return replace(self, load=None, confidence=None, reason=why)


def calibration_path(weights: Path) -> Path:
    """Name the file beside the weights.

    Examples
    --------
    >>> calibration_path(Path("models/site.safetensors")).name
    'site.calibration.json'
    """
    return weights.with_name(weights.name.removesuffix(".safetensors") + ENDING)


def read_calibration(weights: Path, sha256: str) -> Calibration:
    """Read what stands beside weights; a missing or foreign file costs intervals, not the run.

    Parameters
    ----------
    weights : path
    sha256 : str
        Of the weights.

    Returns
    -------
    Calibration
        Empty with a reason where there is no file, where it is damaged, and where it belongs to
        other weights.
    """
    path = calibration_path(weights)
    try:
        content = path.read_bytes()
    except OSError:
        return Calibration(reason=f"these weights come without {path.name}")
    try:
        stored = json.loads(content)
        if stored["format"] != FORMAT or stored["weights"]["sha256"] != sha256:
            return Calibration(reason=f"{path.name} belongs to other weights")
        return _parse(stored, hashlib.sha256(content).hexdigest())
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        return Calibration(reason=f"{path.name} is damaged ({error})")


def _parse(stored: Mapping[str, Any], digest: str) -> Calibration:
    load, confidence = stored["load"], stored["confidence"]
    visits = [{str(k): float(v) for k, v in one.items()} for one in stored["training_visits"]]
    return Calibration(
        load=_load_model(load) if load else None,
        confidence=ConfidenceModel(**confidence) if confidence else None,
        training=TrainingVisits(tuple(visits)) if visits else None,
        coverage={str(k): (int(a), int(b)) for k, (a, b) in stored["coverage"].items()},
        auc=stored["auc"],
        reason=str(stored["reason"]),
        digest=digest,
    )


def _load_model(stored: Mapping[str, Any]) -> LoadModel:
    """Undo what JSON does to tuples; earlier files have no range."""
    seen = stored.get("range_ml")
    return LoadModel(**{**stored, "range_ml": (float(seen[0]), float(seen[1])) if seen else None})


def write_calibration(weights: Path, calibration: Calibration, *, name: str, sha256: str) -> Path:
    """Write the file beside weights, atomically.

    Parameters
    ----------
    weights : path
    calibration : Calibration
    name, sha256 : str
        Of the weights.

    Returns
    -------
    path
    """
    visits = calibration.training.measures if calibration.training else ()
    path = calibration_path(weights)
    write_json(
        path,
        {
            "format": FORMAT,
            "weights": {"name": name, "sha256": sha256},
            "load": asdict(calibration.load) if calibration.load else None,
            "coverage": {site: list(counts) for site, counts in calibration.coverage.items()},
            "confidence": asdict(calibration.confidence) if calibration.confidence else None,
            "auc": calibration.auc,
            "reason": calibration.reason,
            "training_visits": [
                {key: round(value, DIGITS) for key, value in one.items()} for one in visits
            ],
        },
    )
    return path
