"""Anatomy volumes on the FLAIR grid, and the note on implausible volumes."""

from __future__ import annotations

import numpy as np
import pytest

from bids_msseg.imaging.volume import Volume
from bids_msseg.models.anatomy import Anatomy
from bids_msseg.pipeline.anatomy import measure_brain
from bids_msseg.pipeline.lesions import Grid


def halves() -> Volume:
    """8 x 6 x 4 voxels of 1 mm: cortex in the first four along x, white matter behind them."""
    labels = np.full((8, 6, 4), Anatomy.CORTEX, np.uint8)
    labels[4:] = Anatomy.WHITE_MATTER
    return Volume(labels, np.eye(4))


def coarse() -> Grid:
    """Grid of every second voxel of ``halves``."""
    return Grid(Volume(np.zeros((4, 3, 2), np.uint8), np.diag([2.0, 2, 2, 1])))


def test_volumes_are_measured_on_resampled_labels() -> None:
    found = measure_brain(halves(), coarse())
    np.testing.assert_array_equal(found.labels, halves().data[::2, ::2, ::2])
    assert found.labels.dtype == np.uint8
    ml = {label: volume for label, volume in found.volumes.ml.items() if volume}
    assert ml == pytest.approx({Anatomy.CORTEX: 0.096, Anatomy.WHITE_MATTER: 0.096})


def test_implausible_volumes_are_joined_into_one_note() -> None:
    found = measure_brain(halves(), coarse())
    assert "parenchyma_ml" in [text.split()[0] for text in found.implausible]
    assert all(text in found.note for text in found.implausible)


@pytest.mark.parametrize(
    ("middle", "flagged"), [(3.5, False), (2.5, True), (1.5, True), (5.5, True), (None, False)]
)
def test_right_left_ratio_uses_template_midline(middle: float | None, flagged: bool) -> None:
    """The template's midline lies at x = ``middle`` of the FLAIR; all is cerebrum."""
    move = None
    if middle is not None:
        move = np.eye(4)
        move[0, 3] = middle
    found = measure_brain(halves(), coarse(), move)
    assert any(text.startswith("right_left_ratio") for text in found.implausible) == flagged
