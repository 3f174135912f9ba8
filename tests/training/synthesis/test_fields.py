from __future__ import annotations

import numpy as np
import pytest

from bids_msseg.training.synthesis.fields import smooth_field


@pytest.mark.parametrize("width", [3.0, 12.0, 500.0])
def test_smooth_field_has_small_gradients(width: float) -> None:
    field = smooth_field(np.random.default_rng(0), 40, width)
    assert field.shape == (40, 40, 40)
    assert field.dtype == np.float32
    steps = np.abs(np.diff(field, axis=0)).max()
    assert 0 < steps < 8 / min(width, 40)
