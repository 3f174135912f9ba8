"""Nodes that estimate the reliability of a visit's result; neither stops a visit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nipype.interfaces.base import File, traits

from bids_msseg.bids.record import VisitRecord
from bids_msseg.calibration import Calibration, read_calibration
from bids_msseg.imaging.header import check_header
from bids_msseg.imaging.normalise import Stack
from bids_msseg.imaging.volume import load_volume
from bids_msseg.lesions.confidence.uncertainty import LoadInterval
from bids_msseg.models.weights import read_header
from bids_msseg.nodes.base import Step, StepInputs, StepOutputs, save_json
from bids_msseg.pipeline.quality import check_images
from bids_msseg.pipeline.uncertainty import lesion_confidence, load_interval


@dataclass(frozen=True, slots=True)
class VisitQuality:
    """Faults, measures and load interval of a visit, from both quality nodes."""

    faults: tuple[str, ...]
    measures: Mapping[str, float]
    interval_ml: tuple[float, float, float] | None  # expected, low, high
    reason: str  # why there is no interval
    learnt: bool = True  # False if the interval is an extrapolation

    @classmethod
    def read(cls, quality_file: str, estimate_file: str) -> VisitQuality:
        """Read what the nodes wrote."""
        quality = json.loads(Path(quality_file).read_text(encoding="utf-8"))
        estimate = json.loads(Path(estimate_file).read_text(encoding="utf-8"))
        interval = None
        if "expected_ml" in estimate:
            interval = (estimate["expected_ml"], estimate["low_ml"], estimate["high_ml"])
        faults, reason = tuple(quality["faults"]), estimate.get("reason", "")
        return cls(faults, quality["measures"], interval, reason, estimate.get("learnt", True))

    @property
    def quality(self) -> str:
        """``flagged`` if anything is unusual, else ``ok``."""
        return "flagged" if self.faults else "ok"

    def mark(self, record: VisitRecord) -> VisitRecord:
        """Add all values to a visit's record."""
        return replace(
            record,
            load_interval_ml=self.interval_ml,
            load_interval_reason=self.reason,
            load_interval_note=self._note(record.lesion_load_ml),
            quality_reasons=self.faults,
            quality_measures=self.measures,
        )

    def _note(self, load_ml: float | None) -> str:
        if self.interval_ml is None or load_ml is None:
            return ""
        return LoadInterval(*self.interval_ml, self.learnt).contradiction(load_ml)


class _ImageCheckInputs(StepInputs):
    stack_file = File(exists=True, mandatory=True)
    mask_file = File(exists=True, mandatory=True, desc="brain on the conformed FLAIR")
    model_file = File(exists=True, desc="weights; without them there are no training visits")
    contrasts = traits.Dict(traits.Str, traits.Str, mandatory=True, desc="images as acquired")
    known_faults = traits.List(traits.Str, desc="of alignments and of the brain mask")
    calibration = traits.Str(desc="digest of the calibration; a new digest runs the step again")


class _ImageCheckOutputs(StepOutputs):
    quality_file = File(desc="JSON: measures, faults, and why there is no distance")


class CheckImages(Step):
    """Compare the images with the training data; see :mod:`bids_msseg.imaging.quality`."""

    input_spec = _ImageCheckInputs
    output_spec = _ImageCheckOutputs

    def work(self, folder: Path, **inputs: Any) -> dict[str, Any]:
        """Write measures and all faults, also of earlier steps; faults are also notes."""
        calibration = _calibration(Path(inputs["model_file"])) if "model_file" in inputs else None
        check = check_images(
            Stack.load(Path(inputs["stack_file"])),
            load_volume(inputs["mask_file"]),
            {c: check_header(Path(f)).spacing for c, f in inputs["contrasts"].items()},
            training=calibration.training if calibration else None,
            known_faults=inputs.get("known_faults", []),
        )
        faults = list(check.faults)
        reason = calibration.reason if calibration and calibration.training is None else ""
        content = {"measures": check.measures, "faults": faults, "reason": reason}
        return {"quality_file": save_json(folder / "quality.json", content), "notes": faults}


class _LoadInputs(StepInputs):
    probseg_file = File(exists=True, mandatory=True, desc="final probability on the FLAIR grid")
    table_file = File(exists=True, mandatory=True, desc="from Delineate")
    model_file = File(exists=True, desc="weights; without them there is no interval")
    fast = traits.Bool(False, usedefault=True)
    calibration = traits.Str(desc="digest of the calibration; a new digest runs the step again")


class _LoadOutputs(StepOutputs):
    estimate_file = File(desc="JSON: expected_ml, low_ml, high_ml; or why there is none")
    table_file = File(desc="the table with the confidence of each kept lesion")


class EstimateLoad(Step):
    """Estimate an interval of the load and a confidence of each lesion."""

    input_spec = _LoadInputs
    output_spec = _LoadOutputs

    def work(self, folder: Path, **inputs: Any) -> dict[str, Any]:
        """Write the estimate, and the table with the confidences."""
        calibration = Calibration(reason="the errors of this segmenter are not known")
        if "model_file" in inputs:
            calibration = _calibration(Path(inputs["model_file"]))
        if inputs["fast"] and calibration.load is not None:
            calibration = calibration.of_fast()
        estimate: dict[str, Any] = {"reason": calibration.reason}
        if calibration.load is not None:
            estimate = asdict(load_interval(load_volume(inputs["probseg_file"]), calibration.load))
        rows = json.loads(Path(inputs["table_file"]).read_text(encoding="utf-8"))
        return {
            "estimate_file": save_json(folder / "estimate.json", estimate),
            "table_file": save_json(
                folder / "lesions.json", [_with_confidence(row, calibration) for row in rows]
            ),
        }


def _calibration(model: Path) -> Calibration:
    return read_calibration(model, read_header(model).sha256)


def _with_confidence(row: Mapping[str, Any], calibration: Calibration) -> dict[str, Any]:
    confidence = lesion_confidence(row["status"], row["p_final"], calibration.confidence)
    return dict(row) if confidence is None else {**row, "confidence": confidence}
