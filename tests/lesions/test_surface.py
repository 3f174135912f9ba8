"""Distances between surfaces: by hand, by geometry, and against meshes of another package."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage
from surface_distance import metrics as peer

from bids_msseg.lesions.comparison.surface import surface_agreement

Mask = NDArray[np.bool_]
MASKS = hnp.arrays(bool, (5, 4, 3), elements=st.booleans(), fill=st.nothing())


def voxel(k: int) -> Mask:
    mask = np.zeros((11, 11, 20), bool)
    mask[5, 5, k] = True
    return mask


def sphere(radius: float, centre: float = 0.0, spacing: tuple[float, ...] = (1, 1, 1)) -> Mask:
    axes = [np.arange(-26, 26 + edge / 2, edge) for edge in spacing]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    return np.asarray((x - centre) ** 2 + y**2 + z**2 <= radius**2)


@pytest.mark.parametrize("edge", [1.0, 3.0])
def test_distances_of_two_voxels(edge: float) -> None:
    """The surface of a voxel is an octahedron: eight equal triangles, centres at a sixth.

    Half of them look at the other voxel, whose nearest corner is half an edge from its centre.
    """
    near = math.hypot(1 / 6, 1 / 6, (7 - 1 / 2 - 1 / 6) * edge)
    far = math.hypot(1 / 6, 1 / 6, (7 - 1 / 2 + 1 / 6) * edge)
    found = surface_agreement(voxel(12), voxel(5), spacing=(1, 1, edge))
    assert found.assd_mm == pytest.approx((near + far) / 2)
    assert found.hd95_mm == pytest.approx(far)
    assert found.surface_dice == 0


def test_tolerance_is_in_mm() -> None:
    pair = voxel(6), voxel(5)
    assert surface_agreement(*pair, spacing=(1, 1, 1)).surface_dice == 1
    assert surface_agreement(*pair, spacing=(1, 1, 2)).surface_dice == pytest.approx(0.5)
    assert surface_agreement(*pair, spacing=(1, 1, 2), tolerance_mm=2).surface_dice == 1


def test_hd95_is_weighted_by_area() -> None:
    """A distant part beside an identical plate: less than 5 % of the area, then more."""
    plate = np.zeros((40, 40, 20), bool)
    plate[5:35, 5:35, 3:6] = True
    spotted = plate.copy()
    spotted[20, 20, 15] = True
    assert surface_agreement(spotted, plate, spacing=(1, 1, 1)).hd95_mm == 0
    spotted[8:32, 8:32, 15] = True
    assert surface_agreement(spotted, plate, spacing=(1, 1, 1)).hd95_mm > 8


def test_concentric_spheres() -> None:
    found = surface_agreement(sphere(20), sphere(15), spacing=(1, 1, 1))
    assert found.assd_mm == pytest.approx(5, abs=0.3)
    assert found.hd95_mm == pytest.approx(5, abs=0.3)
    assert found.surface_dice == 0


@pytest.mark.parametrize(
    ("spacing", "mean", "share"),
    [((1.0, 1.0, 1.0), 0.15, 0.05), ((1.0, 1.0, 2.0), 0.2, 0.08), ((1.0, 1.0, 6.5), 0.35, 0.15)],
)
def test_shifted_spheres(spacing: tuple[float, ...], mean: float, share: float) -> None:
    """The cosine is uniform on a sphere, so that the distances are known."""
    radius, shift = 18.0, 4.0
    cosine = np.linspace(-1, 1, 20001)
    apart = np.abs(np.sqrt(radius**2 + shift**2 + 2 * radius * shift * cosine) - radius)
    pair = sphere(radius, shift, spacing), sphere(radius, 0, spacing)
    found = surface_agreement(*pair, spacing=spacing)
    assert found.assd_mm == pytest.approx(apart.mean(), abs=mean)
    assert found.hd95_mm == pytest.approx(np.quantile(apart, 0.95), abs=0.4)
    assert found.surface_dice == pytest.approx((apart <= 1).mean(), abs=share)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("seed", range(3))
def test_distances_of_blobs_agree_with_surface_distance(seed: int) -> None:
    """Surfaces of the other package are half a voxel thick on either side; ours are thin."""
    rng = np.random.default_rng(seed)
    spacing = (1.0, 1.0, 1.5)
    smooth = [ndimage.gaussian_filter(rng.normal(size=(40, 36, 20)), 4) for _ in range(2)]
    first, second = (field > np.quantile(field, 0.9) for field in smooth)
    found = surface_agreement(first, second, spacing=spacing)
    other = peer.compute_surface_distances(second, first, spacing)
    there, back = peer.compute_average_surface_distance(other)
    assert there / 2 + back / 2 == pytest.approx(found.assd_mm, rel=0.12)
    assert peer.compute_robust_hausdorff(other, 95) == pytest.approx(found.hd95_mm, rel=0.05)
    share = peer.compute_surface_dice_at_tolerance(other, 3)
    tolerant = surface_agreement(first, second, spacing=spacing, tolerance_mm=3.0)
    assert share == pytest.approx(tolerant.surface_dice, abs=0.12)


@settings(max_examples=25, deadline=None)
@given(MASKS, MASKS)
def test_order_and_field_of_view_do_not_change_distances(first: Mask, second: Mask) -> None:
    spacing = (1.0, 2.0, 4.0)
    plain = surface_agreement(first, second, spacing=spacing)
    turned = surface_agreement(second, first, spacing=spacing)
    padded = surface_agreement(np.pad(first, 3), np.pad(second, 3), spacing=spacing)
    for other in (turned, padded):
        assert other.hd95_mm == pytest.approx(plain.hd95_mm, nan_ok=True)
        assert other.assd_mm == pytest.approx(plain.assd_mm, nan_ok=True)
        assert other.surface_dice == pytest.approx(plain.surface_dice, nan_ok=True)


def test_distance_to_empty_mask_is_nan() -> None:
    nothing = np.zeros((11, 11, 20), bool)
    for pair in ((nothing, voxel(3)), (voxel(3), nothing)):
        found = surface_agreement(*pair, spacing=(1, 1, 1))
        assert math.isnan(found.hd95_mm)
        assert math.isnan(found.assd_mm)
        assert found.surface_dice == 0
    assert math.isnan(surface_agreement(nothing, nothing, spacing=(1, 1, 1)).surface_dice)


def test_grids_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="different grids"):
        surface_agreement(np.ones((2, 2, 2)), np.ones((2, 2, 3)), spacing=(1, 1, 1))
