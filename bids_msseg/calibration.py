"""Calibration of weights: error models in ``<name>.calibration.json`` beside the weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from bids_msseg.bids.files import write_json
from bids_msseg.imaging.quality import TrainingVisits
from bids_msseg.io.validation import first_error
from bids_msseg.lesions.confidence.uncertainty import ConfidenceModel, LoadModel

FORMAT = "bids_msseg-calibration-1"
ENDING = ".calibration.json"
DIGITS = 5


@dataclass(frozen=True, slots=True)
class Calibration:
    """Error models and training image statistics that belong to weights."""

    load: LoadModel | None = None
    confidence: ConfidenceModel | None = None
    training: TrainingVisits | None = None
    # hits and total of the load intervals of held-out patients, by site and for "all"
    coverage: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    auc: float | None = None  # of the confidence in held-out patients
    reason: str = ""  # why something is missing
    digest: str = ""  # SHA-256 of the file

    def of_fast(self) -> Calibration:
        """Return the part that is valid with ``--fast``: the training image statistics."""
        reason = "intervals and confidence were measured without --fast"
        return replace(self, load=None, confidence=None, reason=reason)


def calibration_path(weights: Path) -> Path:
    """Return the path of the calibration file beside the weights."""
    return weights.with_name(weights.name.removesuffix(".safetensors") + ENDING)


def read_calibration(weights: Path, sha256: str) -> Calibration:
    """Read the calibration beside weights; it is empty, with a reason, on failure."""
    path = calibration_path(weights)
    try:
        content = path.read_bytes()
    except OSError:
        return Calibration(reason=f"these weights have no {path.name}")
    try:
        stored = json.loads(content)
        if stored["format"] != FORMAT or stored["weights"]["sha256"] != sha256:
            return Calibration(reason=f"{path.name} belongs to other weights")
        return _parse(stored, hashlib.sha256(content).hexdigest())
    except ValidationError as error:
        return Calibration(reason=f"{path.name} is damaged ({first_error(error)})")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        return Calibration(reason=f"{path.name} is damaged ({error})")


@dataclass(frozen=True, slots=True)
class _Stored:
    """What the file holds, besides its format and the weights."""

    load: LoadModel | None
    confidence: ConfidenceModel | None
    coverage: Mapping[str, tuple[int, int]]
    auc: float | None
    reason: str
    training_visits: tuple[Mapping[str, float], ...]


def _parse(stored: Mapping[str, Any], digest: str) -> Calibration:
    content = TypeAdapter(_Stored).validate_python(stored)
    return Calibration(
        load=content.load,
        confidence=content.confidence,
        training=TrainingVisits(content.training_visits) if content.training_visits else None,
        coverage=content.coverage,
        auc=content.auc,
        reason=content.reason,
        digest=digest,
    )


def write_calibration(weights: Path, calibration: Calibration, *, name: str, sha256: str) -> Path:
    """Write the calibration beside the weights atomically and return its path."""
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
                {key: round(value, DIGITS) for key, value in visit.items()} for visit in visits
            ],
        },
    )
    return path
