"""What a brain mask holds beyond the template's brain, on the template's own world."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.imaging.brain_check import (
    CORD_BELOW_MM,
    EXTRACEREBRAL_MM,
    LOCAL_ML,
    MISFIT_MM,
    check_brain,
)
from bids_msseg.imaging.resample import mask_onto
from bids_msseg.imaging.template import load_template
from bids_msseg.imaging.volume import Volume

EDGE_MM = 3.0
BUMP_ML = 9 * 9 * 5 * EDGE_MM**3 / 1000
Mask = NDArray[np.bool_]


@pytest.fixture(scope="module")
def template() -> Volume:
    found = load_template()
    return found.volume.with_data(found.mask)


@pytest.fixture(scope="module")
def grid(template: Volume) -> Volume:
    """An empty grid of 3 mm over the template's."""
    x, y, z = (int(size // EDGE_MM) for size in template.shape)
    affine = template.affine @ np.diag([EDGE_MM, EDGE_MM, EDGE_MM, 1.0])
    return Volume(np.zeros((x, y, z), np.float32), affine)


@pytest.fixture(scope="module")
def brain(template: Volume, grid: Volume) -> Mask:
    return mask_onto(template, grid.shape, grid.affine)


def voxel(grid: Volume, point: tuple[float, float, float]) -> tuple[int, int, int]:
    x, y, z = np.rint(np.linalg.solve(grid.affine, [*point, 1.0])[:3]).astype(int)
    return int(x), int(y), int(z)


def bump(grid: Volume, brain: Mask, axis: int, sign: int, thick: int = 5) -> Mask:
    """A box of 9 by 9 voxels on the brain's surface, along an axis from (0, -20, 20) mm."""
    start = list(voxel(grid, (0.0, -20.0, 20.0)))
    line: list[int | slice] = list(start)
    line[axis] = slice(None)
    ends = np.flatnonzero(brain[tuple(line)])
    box = [slice(place - 4, place + 5) for place in start]
    top = int(ends[-1] if sign > 0 else ends[0])
    box[axis] = slice(top + 1, top + 1 + thick) if sign > 0 else slice(top - thick, top)
    found = np.zeros(brain.shape, bool)
    found[tuple(box)] = True
    return found & ~brain


PLACES = {"vertex": (2, 1), "forehead": (1, 1), "back": (1, -1), "right": (0, 1), "left": (0, -1)}


def outside_mm(grid: Volume, brain: Mask) -> NDArray[np.float64]:
    found: NDArray[np.float64] = ndimage.distance_transform_edt(~brain, grid.spacing)
    return found


def test_a_mask_like_the_template_stays_as_it_is(
    template: Volume, grid: Volume, brain: Mask
) -> None:
    flair = grid.with_data(np.where(brain, 100, 0).astype(np.float32))
    found = check_brain(flair, brain, template, np.eye(4))
    assert found.mask is brain
    assert (found.notes, found.faults) == ((), ())


@pytest.mark.parametrize("place", PLACES)
def test_scalp_is_cut_off(template: Volume, grid: Volume, brain: Mask, place: str) -> None:
    scalp = bump(grid, brain, *PLACES[place])
    flair = grid.with_data(np.where(scalp, 200, 100 * brain).astype(np.float32))
    found = check_brain(flair, brain | scalp, template, np.eye(4))
    assert len(found.notes) == 1
    assert found.faults == ()
    assert not (found.mask & (outside_mm(grid, brain) > MISFIT_MM)).any()
    assert (brain & ~found.mask).sum() < 0.001 * brain.sum()


@pytest.mark.parametrize("place", ["forehead", "back", "right", "left"])
def test_a_brain_that_differs_a_little_from_the_template_is_left_alone(
    template: Volume, grid: Volume, brain: Mask, place: str
) -> None:
    """As bright as brain, carried by the next slice, and not far."""
    more = bump(grid, brain, *PLACES[place], thick=2)
    flair = grid.with_data(np.where(brain | more, 100, 0).astype(np.float32))
    mask = brain | more
    found = check_brain(flair, mask, template, np.eye(4))
    assert found.mask is mask
    assert found.faults == ()


@pytest.mark.parametrize("place", PLACES)
def test_a_given_mask_is_named_and_not_changed(
    template: Volume, grid: Volume, brain: Mask, place: str
) -> None:
    scalp = bump(grid, brain, *PLACES[place])
    mask = brain | scalp
    flair = grid.with_data(np.where(scalp, 200, 100 * brain).astype(np.float32))
    found = check_brain(flair, mask, template, np.eye(4), repair=False)
    assert found.mask is mask
    assert (len(found.notes), len(found.faults)) == (0, 1)


@pytest.mark.parametrize(
    ("voxels", "repair", "size"),
    [(8, False, "0.2"), (16, False, "0.4"), (50, False, "1.4"), (1000, True, "27.0")],
)
def test_a_small_leak_is_not_said_to_be_nothing(
    template: Volume,
    grid: Volume,
    brain: Mask,
    monkeypatch: pytest.MonkeyPatch,
    voxels: int,
    repair: bool,
    size: str,
) -> None:
    """Voxels of 27 mm³; with repair, what is too much to be cut off is named."""

    def leak(_flair: Volume, mask: Mask, *_: object) -> Mask:
        found = np.zeros_like(mask)
        found.flat[np.flatnonzero(mask)[:voxels]] = True
        return found

    monkeypatch.setattr("bids_msseg.imaging.brain_check._leak", leak)
    flair = grid.with_data(np.where(brain, 100, 0).astype(np.float32))
    (fault,) = check_brain(flair, brain, template, np.eye(4), repair=repair).faults
    assert f" {size} mL " in fault


def test_what_is_not_local_is_named(template: Volume, grid: Volume, brain: Mask) -> None:
    wide = ndimage.binary_dilation(brain, iterations=5)
    assert (wide & ~brain).sum() * EDGE_MM**3 / 1000 > 4 * LOCAL_ML > BUMP_ML
    flair = grid.with_data(np.where(brain, 100, 200).astype(np.float32))
    found = check_brain(flair, wide, template, np.eye(4))
    assert found.mask is wide
    assert (len(found.notes), len(found.faults)) == (0, 1)


@pytest.mark.parametrize(("axis", "above"), [(0, True), (0, False), (1, True), (2, True)])
def test_half_a_brain_is_named(
    template: Volume, grid: Volume, brain: Mask, axis: int, above: bool
) -> None:
    middle = voxel(grid, (0.0, -20.0, 20.0))[axis]
    half = brain.copy()
    lost: list[slice] = [slice(None)] * 3
    lost[axis] = slice(middle, None) if above else slice(None, middle)
    half[tuple(lost)] = False
    flair = grid.with_data(np.where(brain, 100, 0).astype(np.float32))
    found = check_brain(flair, half, template, np.eye(4))
    assert len(found.faults) == 1
    assert found.notes == ()


def test_a_template_somewhere_else_is_named(template: Volume, grid: Volume, brain: Mask) -> None:
    away = np.eye(4)
    away[:3, 3] = 1000
    found = check_brain(grid, brain, template, away)
    assert found.mask is brain
    assert not found.extracerebral.any()
    assert len(found.faults) == 1


def test_no_lesion_can_be_beyond_the_brain_but_along_the_cord(
    template: Volume, grid: Volume, brain: Mask
) -> None:
    mask = brain | bump(grid, brain, 2, 1)
    flair = grid.with_data(np.where(mask, 100, 0).astype(np.float32))
    found = check_brain(flair, mask, template, np.eye(4)).extracerebral
    assert not (found & brain).any()
    assert not (found & (outside_mm(grid, brain) <= EXTRACEREBRAL_MM)).any()
    heights = grid.affine[2, 2] * np.arange(grid.shape[2]) + grid.affine[2, 3]
    assert not found[:, :, heights <= CORD_BELOW_MM].any()
    assert (found & bump(grid, brain, 2, 1)).any()
