"""Check of brain masks against the template's brain mask, in template space."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from bids_msseg.imaging.brain_check import (
    CORD_BELOW_MM,
    EXTRACEREBRAL_MM,
    LOCAL_ML,
    MIN_LEAK_ML,
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
    """An empty image with 3 mm voxels that covers the template."""
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


def test_mask_equal_to_template_is_unchanged(template: Volume, grid: Volume, brain: Mask) -> None:
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
def test_mask_slightly_larger_than_template_is_unchanged(
    template: Volume, grid: Volume, brain: Mask, place: str
) -> None:
    """The extra voxels are as bright as brain, near it, and supported by the next slice."""
    more = bump(grid, brain, *PLACES[place], thick=2)
    flair = grid.with_data(np.where(brain | more, 100, 0).astype(np.float32))
    mask = brain | more
    found = check_brain(flair, mask, template, np.eye(4))
    assert found.mask is mask
    assert found.faults == ()


def thick_grid(template: Volume, axis: int) -> Volume:
    """An empty grid with slices of 5 mm along an axis, 2 mm in plane, tilted by 8 degrees."""
    edges = np.full(3, 2.0)
    edges[axis] = 5.0
    x, y, z = (int(n) for n in np.array(template.shape) // edges)
    tilt = np.eye(4)
    tilt[1:3, 1:3] = Rotation.from_euler("x", 8, degrees=True).as_matrix()[1:, 1:]
    affine = tilt @ template.affine @ np.diag([*edges, 1.0])
    return Volume(np.zeros((x, y, z), np.float32), affine)


def patch(grid: Volume, brain: Mask, place: str, reach_mm: float) -> Mask:
    """Return a layer of up to ``reach_mm`` on the surface, within 16 mm of a line."""
    axis, sign = PLACES[place]
    start = np.array(voxel(grid, (0.0, -20.0, 20.0)))
    offset = np.moveaxis(np.indices(brain.shape), 0, -1) - start
    sideways = np.delete(offset * grid.spacing, axis, axis=-1)
    region = (np.linalg.norm(sideways, axis=-1) <= 16) & (sign * offset[..., axis] > 0)
    found: Mask = region & ~brain & (outside_mm(grid, brain) <= reach_mm)
    return found


# without ragged leaks in sagittal slices: the next slice is often larger and supports them
THICK = [
    (axis, place, leak)
    for axis in range(3)
    for place in PLACES
    for leak in ("bright", "ragged", "none")
    if PLACES[place][0] != axis and (axis, leak) != (0, "ragged")
]


@pytest.mark.parametrize(("axis", "place", "leak"), THICK)
def test_leak_into_thick_slices_is_removed(
    template: Volume, axis: int, place: str, leak: str
) -> None:
    """A bright leak spans several slices; a ragged one is as dark as brain, in one slice only."""
    grid = thick_grid(template, axis)
    brain = mask_onto(template, grid.shape, grid.affine)
    more = patch(grid, brain, place, 11.0 if leak == "ragged" else 8.0)
    if leak == "ragged":
        # the largest slice has no next slice towards the middle
        planes = tuple(index for index in range(3) if index != axis)
        middle = int(brain.sum(axis=planes).argmax())
        sizes = more.sum(axis=planes)
        sizes[middle - 1 : middle + 2] = 0
        others = np.arange(more.shape[axis]) != sizes.argmax()
        more[tuple(others if index == axis else slice(None) for index in range(3))] = False
    brightness = 200 if leak == "bright" else 100
    flair = grid.with_data(np.where(more, brightness, 100 * brain).astype(np.float32))
    mask = brain | more
    found = check_brain(flair, mask, template, np.eye(4))
    assert found.faults == ()
    if leak == "none":
        assert found.mask is mask
        return
    assert len(found.notes) == 1
    rest = found.mask & more & (outside_mm(grid, brain) > MISFIT_MM)
    assert rest.sum() * grid.voxel_volume / 1000 < MIN_LEAK_ML
    assert (brain & ~found.mask).sum() < 0.001 * brain.sum()


@pytest.mark.parametrize("place", PLACES)
def test_leak_of_given_mask_is_reported_but_not_removed(
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
def test_fault_states_leak_volume_with_one_decimal(
    template: Volume,
    grid: Volume,
    brain: Mask,
    monkeypatch: pytest.MonkeyPatch,
    voxels: int,
    repair: bool,
    size: str,
) -> None:
    """Voxels are 27 mm³; with repair, only leaks that are too large to remove are faults."""

    def leak(_flair: Volume, mask: Mask, *_: object) -> Mask:
        found = np.zeros_like(mask)
        found.flat[np.flatnonzero(mask)[:voxels]] = True
        return found

    monkeypatch.setattr("bids_msseg.imaging.brain_check._leak", leak)
    flair = grid.with_data(np.where(brain, 100, 0).astype(np.float32))
    (fault,) = check_brain(flair, brain, template, np.eye(4), repair=repair).faults
    assert f" {size} mL " in fault


def test_widespread_leak_is_reported_but_not_removed(
    template: Volume, grid: Volume, brain: Mask
) -> None:
    wide = ndimage.binary_dilation(brain, iterations=5)
    assert (wide & ~brain).sum() * EDGE_MM**3 / 1000 > 4 * LOCAL_ML > BUMP_ML
    flair = grid.with_data(np.where(brain, 100, 200).astype(np.float32))
    found = check_brain(flair, wide, template, np.eye(4))
    assert found.mask is wide
    assert (len(found.notes), len(found.faults)) == (0, 1)


@pytest.mark.parametrize(("axis", "above"), [(0, True), (0, False), (1, True), (2, True)])
def test_missing_half_of_brain_is_reported(
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


def test_template_outside_image_is_reported(template: Volume, grid: Volume, brain: Mask) -> None:
    away = np.eye(4)
    away[:3, 3] = 1000
    found = check_brain(grid, brain, template, away)
    assert found.mask is brain
    assert not found.extracerebral.any()
    assert len(found.faults) == 1


def test_extracerebral_region_excludes_brain_margin_and_cord(
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
