from __future__ import annotations

from bids_msseg.lesions.confidence.uncertainty import ConfidenceModel
from bids_msseg.pipeline.uncertainty import lesion_confidence


def test_only_kept_lesions_have_confidence() -> None:
    model = ConfidenceModel(1.0, 0.0, 50, 9)
    assert lesion_confidence("kept", 0.9, model) == model.confidence(0.9)
    assert lesion_confidence("rejected", 0.9, model) is None
    assert lesion_confidence("kept", 0.9, None) is None
