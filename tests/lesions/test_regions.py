"""Regions by physical distance, and the main region of each lesion by contact."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.lesions.instances import label_lesions
from bids_msseg.lesions.regions import (
    JUXTACORTICAL_MM,
    OWN_PERIVENTRICULAR_MM,
    PERIVENTRICULAR_MM,
    Region,
    RegionAnatomy,
    assign,
    disseminated_in_space,
    near,
    region_map,
)

PV, JC, IT, DWM = Region
SHAPES = hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=6)
ANATOMIES = hnp.arrays(np.int8, SHAPES, elements=st.integers(0, 4)).filter(np.any)


def test_near_uses_mm_in_thick_slices() -> None:
    mask = np.zeros((21, 1, 21), bool)
    mask[10, 0, 10] = True
    grown = near(mask, 5.0, np.array([1.0, 1.0, 5.0]))
    assert grown[:, 0, 10].sum() == 11
    assert grown[10, 0, :].sum() == 3


def test_near_of_empty_mask_is_empty() -> None:
    assert not near(np.zeros((3, 3, 3), bool), 5.0, np.ones(3)).any()


def ball_brain(spacing: tuple[float, float, float]) -> NDArray[np.int8]:
    """Round head of radius 60 mm: ventricle within 10 mm, cortex from 54 mm, cerebellum below."""
    shape = [round(140 / step) for step in spacing]
    axes = [(np.arange(n) - (n - 1) / 2) * step for n, step in zip(shape, spacing, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    radius = np.sqrt(x**2 + y**2 + z**2)
    codes = np.select(
        [radius > 60, z < -30, radius <= 10, radius >= 54],
        [
            RegionAnatomy.OUTSIDE,
            RegionAnatomy.INFRATENTORIAL,
            RegionAnatomy.VENTRICLE,
            RegionAnatomy.CORTEX,
        ],
        RegionAnatomy.SUPRATENTORIAL,
    )
    return codes.astype(np.int8)


def on_line(codes: str) -> NDArray[np.int8]:
    return np.array([int(code) for code in codes], np.int8).reshape(-1, 1, 1)


class TestRegion:
    def test_region_codes_and_names_are_fixed(self) -> None:
        assert {region.label: int(region) for region in Region} == {
            "periventricular": 1,
            "juxtacortical": 2,
            "infratentorial": 3,
            "deep_white_matter": 4,
        }
        assert [code.name for code in RegionAnatomy] == [
            "OUTSIDE",
            "VENTRICLE",
            "CORTEX",
            "INFRATENTORIAL",
            "SUPRATENTORIAL",
        ]
        assert list(RegionAnatomy) == [0, 1, 2, 3, 4]


def test_default_band_widths_are_fixed() -> None:
    """Results in the documentation depend on these widths."""
    assert (PERIVENTRICULAR_MM, OWN_PERIVENTRICULAR_MM, JUXTACORTICAL_MM) == (5.0, 2.0, 1.5)


class TestRegionMap:
    def test_bands_have_requested_widths(self) -> None:
        regions = region_map(
            on_line("144444444442"), (1, 1, 1), periventricular_mm=3, juxtacortical_mm=2
        )
        assert regions.ravel().tolist() == [PV] * 4 + [DWM] * 5 + [JC] * 3

    @pytest.mark.parametrize(("step", "reached"), [(0.5, 6), (1.0, 3), (3.0, 1), (7.0, 0)])
    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_distance_is_in_mm_along_every_axis(
        self, axis: int, step: float, reached: int
    ) -> None:
        anatomy = np.moveaxis(on_line("1444444444"), 0, axis)
        spacing = [0.1, 0.1, 0.1]
        spacing[axis] = step
        regions = region_map(anatomy, spacing, periventricular_mm=3)
        assert (regions == PV).sum() == 1 + reached

    @pytest.mark.parametrize(("own", "reached"), [(False, 0), (True, 1)])
    def test_thick_adjacent_slice_abuts_own_ventricles_only(self, own: bool, reached: int) -> None:
        anatomy = np.moveaxis(on_line("1444"), 0, 2)
        regions = region_map(anatomy, (1, 1, 7), periventricular_mm=2, own_ventricles=own)
        assert (regions == PV).sum() == 1 + reached

    @pytest.mark.parametrize(("own", "reached"), [(False, 5), (True, 2)])
    def test_band_around_own_ventricles_is_narrower(self, own: bool, reached: int) -> None:
        regions = region_map(on_line("1444444444"), (1, 1, 1), own_ventricles=own)
        assert (regions == PV).sum() == 1 + reached

    def test_infratentorial_comes_before_both_bands(self) -> None:
        regions = region_map(on_line("132"), (1, 1, 1), periventricular_mm=5, juxtacortical_mm=5)
        assert regions.ravel().tolist() == [PV, IT, PV]

    def test_ventricle_comes_before_cortex(self) -> None:
        regions = region_map(on_line("1442"), (1, 1, 1), periventricular_mm=2, juxtacortical_mm=2)
        assert regions.ravel().tolist() == [PV, PV, PV, JC]

    def test_voxels_outside_brain_get_nearest_region(self) -> None:
        regions = region_map(
            on_line("0001300400"), (1, 1, 1), periventricular_mm=1, juxtacortical_mm=1
        )
        assert regions.ravel().tolist() == [PV] * 4 + [IT] * 2 + [DWM] * 4

    def test_nearest_region_is_determined_in_mm(self) -> None:
        anatomy = np.array([[3, 3, 3, 3], [0, 0, 4, 4]]).reshape(2, 4, 1)
        assert region_map(anatomy, (5, 1, 1))[1, 0, 0] == DWM
        assert region_map(anatomy, (1, 5, 1))[1, 0, 0] == IT

    def test_without_ventricles_all_tissue_is_deep_white_matter(self) -> None:
        assert np.unique(region_map(on_line("04440"), (1, 1, 1))).tolist() == [DWM]

    def test_region_map_without_brain_is_refused(self) -> None:
        with pytest.raises(ValueError, match="no brain"):
            region_map(np.zeros((3, 3, 3), int), (1, 1, 1))

    def test_unknown_anatomical_codes_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"unknown anatomical codes: \[4, 17\]"):
            region_map(np.array([4, 17]).reshape(2, 1, 1), (1, 1, 1))

    @given(ANATOMIES)
    def test_every_voxel_has_a_region(self, anatomy: NDArray[np.int8]) -> None:
        regions = region_map(anatomy, (1, 1, 2))
        assert regions.shape == anatomy.shape
        assert regions.dtype == np.int8
        assert np.isin(regions, list(Region)).all()
        assert (regions[anatomy == RegionAnatomy.INFRATENTORIAL] == IT).all()
        assert (regions[anatomy == RegionAnatomy.VENTRICLE] == PV).all()

    @given(ANATOMIES, st.integers(1, 4))
    def test_air_around_the_head_changes_nothing(
        self, anatomy: NDArray[np.int8], margin: int
    ) -> None:
        inner = (slice(margin, -margin),) * 3
        padded = region_map(np.pad(anatomy, margin), (1, 1, 2))
        assert np.array_equal(padded[inner], region_map(anatomy, (1, 1, 2)))

    @given(ANATOMIES, st.sets(st.integers(0, 2)))
    def test_flipped_anatomy_gives_flipped_regions(
        self, anatomy: NDArray[np.int8], axes: set[int]
    ) -> None:
        inside = anatomy != RegionAnatomy.OUTSIDE
        here = np.where(inside, region_map(anatomy, (1, 1, 2)), 0)
        there = region_map(np.flip(anatomy, tuple(axes)), (1, 1, 2))
        assert np.array_equal(np.flip(here, tuple(axes)), there * np.flip(inside, tuple(axes)))

    def test_bands_equal_distance_transform_of_whole_grid(self) -> None:
        """The bounding boxes only save time."""
        spacing = (2.0, 2.5, 4.0)
        anatomy = ball_brain(spacing)
        regions = region_map(anatomy, spacing, periventricular_mm=6, juxtacortical_mm=5)
        inside = anatomy != RegionAnatomy.OUTSIDE
        supra = inside & (anatomy != RegionAnatomy.INFRATENTORIAL)
        to_ventricle, to_cortex = (
            ndimage.distance_transform_edt(anatomy != code, sampling=spacing)
            for code in (RegionAnatomy.VENTRICLE, RegionAnatomy.CORTEX)
        )
        assert np.array_equal((regions == PV) & inside, supra & (to_ventricle <= 6))
        assert np.array_equal(
            (regions == JC) & inside, supra & (to_cortex <= 5) & (to_ventricle > 6)
        )


class TestAssign:
    @pytest.mark.parametrize(
        ("places", "main"),
        [
            ("4444444441", PV),  # one voxel abuts the ventricle
            ("4444444442", JC),
            ("4444444422", JC),
            ("4444444221", JC),  # both: the larger contact
            ("4444442211", PV),  # a tie goes to the ventricle
            ("4444444444", DWM),
            ("3333344441", IT),  # an infratentorial half has priority
            ("3333444441", PV),
            ("3333444444", DWM),
            ("3333333333", IT),
        ],
    )
    def test_main_region(self, places: str, main: Region) -> None:
        result = assign(np.ones((10, 1, 1), int), on_line(places))
        assert result.main.tolist() == [main]
        assert result.shares[0].tolist() == [places.count(code) / 10 for code in "1234"]

    def test_lesions_are_assigned_independently(self) -> None:
        result = assign(on_line("1102233"), on_line("1441234"))
        assert result.voxels.tolist() == [[1, 0, 0, 1], [1, 1, 0, 0], [0, 0, 1, 1]]
        assert result.main.tolist() == [PV, PV, IT]

    def test_label_without_voxels_has_no_region(self) -> None:
        result = assign(on_line("0300"), on_line("4444"))
        assert result.main.tolist() == [0, 0, DWM]
        assert result.shares.sum(axis=1).tolist() == [0, 0, 1]

    def test_assignment_without_lesions_is_empty(self) -> None:
        result = assign(on_line("0000"), on_line("4444"))
        assert result.voxels.shape == (0, 4)
        assert result.main.shape == (0,)

    def test_different_grids_are_refused(self) -> None:
        with pytest.raises(ValueError, match="differ in grid"):
            assign(on_line("000"), on_line("4444"))

    @given(hnp.arrays(np.int32, (4, 3, 3), elements=st.integers(0, 5)))
    def test_shares_add_up(self, labels: NDArray[np.int32]) -> None:
        regions = np.random.default_rng(0).integers(1, 5, labels.shape)
        result = assign(labels, regions)
        sizes = np.bincount(labels.ravel())[1:]
        assert result.voxels.sum(axis=1).tolist() == sizes.tolist()
        assert np.allclose(result.shares.sum(axis=1), sizes > 0)


def test_whole_head_is_assigned_within_five_seconds() -> None:
    spacing = (0.7, 0.7, 3.0)
    anatomy = ball_brain(spacing)
    rng = np.random.default_rng(0)
    labels = label_lesions(rng.random(anatomy.shape) < 0.003, voxel_volume=1.5)
    start = time.process_time()
    result = assign(labels, region_map(anatomy, spacing))
    assert time.process_time() - start < 5
    assert set(result.main.tolist()) == set(Region)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((1, 1, 0), True),
        ((1, 0, 1), True),
        ((0, 2, 3), True),
        ((9, 0, 0), False),
        ((0, 0, 0), False),
        ((1, None, 1), None),
    ],
)
def test_dissemination_in_space_needs_two_of_three_areas(
    counts: tuple[int | None, ...], expected: bool | None
) -> None:
    names = ("periventricular", "juxtacortical", "infratentorial")
    found = disseminated_in_space({**dict(zip(names, counts, strict=True)), DWM.label: 5})
    assert found is expected
