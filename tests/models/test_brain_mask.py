from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from bids_msseg.models.anatomy import CLASSES, Anatomy
from bids_msseg.models.brain_mask import correct_brain_mask

SHAPE = (60, 60, 60)
Box = tuple[slice, slice, slice]


def _brain() -> NDArray[np.bool_]:
    brain = np.zeros(SHAPE, bool)
    brain[10:50, 10:50, 10:50] = True
    return brain


def _anatomy(scalp: Box | None = None) -> NDArray[np.float16]:
    """White matter everywhere, but scalp in a box of 1 mm voxels."""
    anatomy = np.zeros((CLASSES, 30, 30, 30), np.float16)
    anatomy[Anatomy.WHITE_MATTER] = 1
    if scalp is not None:
        x, y, z = (slice(side.start // 2, side.stop // 2) for side in scalp)
        anatomy[Anatomy.WHITE_MATTER, x, y, z] = 0.1
        anatomy[Anatomy.EXTRA_CEREBRAL, x, y, z] = 0.9
    return anatomy


@pytest.mark.parametrize(
    "scalp",
    [
        (slice(10, 50), slice(42, 50), slice(20, 30)),
        (slice(20, 40), slice(20, 40), slice(44, 50)),
        (slice(10, 16), slice(10, 30), slice(10, 30)),
    ],
)
def test_scalp_at_mask_border_is_removed(scalp: Box) -> None:
    found = correct_brain_mask(_brain(), _anatomy(scalp))
    expected = _brain()
    expected[scalp] = False
    # the opening rounds edges by a voxel
    assert np.count_nonzero(found.mask ^ expected) <= 0.15 * np.count_nonzero(_brain()[scalp])
    assert found.removed_ml == pytest.approx(_brain()[scalp].sum() / 1000, rel=0.15)
    assert not found.doubtful


def test_region_inside_mask_is_kept() -> None:
    found = correct_brain_mask(_brain(), _anatomy((slice(24, 34), slice(24, 34), slice(24, 34))))
    assert np.array_equal(found.mask, _brain())
    assert found.removed_ml == 0


def test_correct_mask_is_unchanged() -> None:
    found = correct_brain_mask(_brain(), _anatomy())
    assert np.array_equal(found.mask, _brain())
    assert found.removed_ml == 0
    assert not found.doubtful


def test_anatomy_contradicting_half_of_mask_is_ignored() -> None:
    found = correct_brain_mask(_brain(), _anatomy((slice(10, 30), slice(10, 50), slice(10, 50))))
    assert np.array_equal(found.mask, _brain())
    assert found.doubtful
