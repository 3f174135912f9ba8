from __future__ import annotations

from typing import Any

import pytest

from bids_msseg.bids.record_values import ModelUse
from bids_msseg.reports.methods import methods_paragraph

OTHER = ModelUse("X", "2", "abc", "command", "MIT", "Doe 2020", ("FLAIR",))
COMMON: dict[str, Any] = {
    "model": "m", "sha256": "abc", "threshold": 0.5, "min_lesion_volume": 3.0, "versions": {}
}  # fmt: skip


@pytest.mark.parametrize(
    ("options", "phrases", "has_networks"),
    [
        ({}, ["Only FLAIR was available"], True),
        ({"model": "", "sha256": "", "masks": "manual"}, ["given masks manual"], False),
        ({"excluded": "infarct"}, ["exclusion masks infarct"], True),
        ({"model": "X", "segmenter": OTHER}, ["X 2", "Doe 2020", "licence MIT"], False),
    ],
)
def test_methods_paragraph_describes_processing(
    options: dict[str, Any], phrases: list[str], has_networks: bool
) -> None:
    text = methods_paragraph(["FLAIR"], **{**COMMON, **options})
    assert all(phrase in text for phrase in phrases)
    assert ("convolutional" in text) == has_networks
