"""Placing, growing and painting on one phantom: a ventricle, white matter, cortex."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.lesions.regions import Region
from bids_msseg.training.synthesis.painting import paint
from bids_msseg.training.synthesis.placing import (
    Terrain,
    place_lesions,
    place_volumes,
    prepare_terrain,
)
from bids_msseg.training.synthesis.shapes import EVERY_NEIGHBOUR, LesionMap, resize
from bids_msseg.training.synthesis.statistics import (
    MEASURED_PLACES,
    LesionStatistics,
    SizeClass,
    sample_contrasts,
)

SMALL = LesionStatistics(largest=300.0)
SMOOTH = replace(
    SMALL,
    halo=0.0,
    classes=(SizeClass(np.inf, (1.0, -0.5, 0.8), (0.0, 0.0, 0.0), 0.0),),
)


def ball(radius: float, centre: tuple[float, float, float] = (40, 40, 40)) -> NDArray[np.bool_]:
    x, y, z = np.ogrid[:80, :80, :80]
    distance = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2
    return np.asarray(distance <= radius**2, bool)


def phantom() -> dict[str, NDArray[np.bool_]]:
    """White matter around a ventricle, with cortex outside; its lowest part is infratentorial."""
    ventricle, brain = ball(9), ball(36)
    below = np.zeros_like(brain)
    below[:, :, :22] = True
    white = ball(31) & ~ventricle
    return {
        "white_matter": white,
        "ventricle": ventricle,
        "cortex": brain & ~ball(31),
        "infratentorial": brain & below,
    }


@pytest.fixture(scope="module")
def terrain() -> Terrain:
    return prepare_terrain(**phantom())


def placed(terrain: Terrain, seed: int = 0, count: int = 25) -> LesionMap:
    return place_lesions(np.random.default_rng(seed), terrain, statistics=SMALL, count=count)


class TestPlacing:
    @given(st.integers(0, 2**32))
    @settings(max_examples=8, deadline=None)
    def test_label_is_where_the_fraction_is_at_least_half(self, seed: int) -> None:
        lesions = placed(prepare_terrain(**phantom()), seed, count=6)
        np.testing.assert_array_equal(lesions.labels > 0, lesions.soft >= 0.5)
        assert lesions.soft.min() >= 0
        assert lesions.soft.max() <= 1

    @given(st.integers(0, 2**32))
    @settings(max_examples=8, deadline=None)
    def test_each_lesion_is_a_separate_component(self, seed: int) -> None:
        lesions = placed(prepare_terrain(**phantom()), seed)
        _, parts = ndimage.label(lesions.labels > 0, EVERY_NEIGHBOUR)
        assert parts == len(lesions.lesions) == lesions.labels.max()
        assert all(lesions.volumes > 0)

    def test_placed_volumes_match_drawn_volumes(self, terrain: Terrain) -> None:
        lesions = placed(terrain)
        aimed = np.array([round(lesion.volume) for lesion in lesions.lesions])
        assert np.mean(np.abs(lesions.volumes - aimed) <= 1) >= 0.9

    def test_volume_of_the_fractions_is_close_to_that_of_the_labels(
        self, terrain: Terrain
    ) -> None:
        lesions = place_lesions(
            np.random.default_rng(1),
            terrain,
            statistics=replace(SMALL, smallest=100.0, largest=1000.0),
            count=8,
        )
        # a soft edge adds volume to convex shapes, relatively more to small ones
        assert 1.0 < lesions.soft.sum() / (lesions.labels > 0).sum() < 1.25

    def test_lesions_avoid_ventricle_and_stay_near_white_matter(self, terrain: Terrain) -> None:
        anatomy = phantom()
        lesions = placed(terrain, count=40)
        assert not lesions.soft[anatomy["ventricle"]].any()
        near = ndimage.binary_dilation(anatomy["white_matter"])
        assert not (lesions.labels > 0)[~near].any()

    def test_lesions_lie_in_their_region(self, terrain: Terrain) -> None:
        anatomy = phantom()
        lesions = placed(terrain, count=40)
        to_ventricle = ndimage.distance_transform_edt(~anatomy["ventricle"])
        for number, lesion in enumerate(lesions.lesions, start=1):
            inside = lesions.labels == number
            if lesion.region is Region.PERIVENTRICULAR:
                assert to_ventricle[inside].min() <= 3.5
            if lesion.region is Region.INFRATENTORIAL:
                assert anatomy["infratentorial"][inside].any()
        assert {lesion.region for lesion in lesions.lesions} == set(MEASURED_PLACES)

    def test_periventricular_lesions_point_away_from_the_ventricle(self) -> None:
        wall = np.zeros((60, 60, 60), bool)
        wall[:8] = True
        nothing = np.zeros_like(wall)
        terrain = prepare_terrain(~wall, wall, nothing, nothing)
        only = {Region.PERIVENTRICULAR: 1.0}
        figures = LesionStatistics(places=only, smallest=60, largest=150)
        lengths = []
        for seed in range(4):
            lesions = place_lesions(
                np.random.default_rng(seed), terrain, statistics=figures, count=8
            )
            for box in ndimage.find_objects(lesions.labels):
                lengths.append([side.stop - side.start for side in box])
        outward, across, along = np.mean(lengths, axis=0)
        assert outward > 1.15 * max(across, along)

    def test_the_same_seed_gives_the_same_lesions(self, terrain: Terrain) -> None:
        one, two, other = (
            place_lesions(np.random.default_rng(seed), terrain, statistics=SMALL, count=10)
            for seed in (8, 8, 9)
        )
        np.testing.assert_array_equal(one.labels, two.labels)
        np.testing.assert_array_equal(one.soft, two.soft)
        assert (one.labels != other.labels).any()

    @pytest.mark.parametrize("load", [0.2, 1.5])
    def test_placed_load_matches_requested_load(self, terrain: Terrain, load: float) -> None:
        lesions = place_lesions(np.random.default_rng(2), terrain, statistics=SMALL, load=load)
        assert lesions.volumes.sum() / 1000 == pytest.approx(load, rel=0.08)

    def test_given_volumes_and_regions_are_placed(self, terrain: Terrain) -> None:
        regions = [Region.PERIVENTRICULAR, Region.JUXTACORTICAL, Region.INFRATENTORIAL]
        wanted = [400.0, 60.0, 4.0]
        lesions = place_volumes(np.random.default_rng(3), terrain, wanted, regions)
        assert [lesion.volume for lesion in lesions.lesions] == wanted
        assert [lesion.region for lesion in lesions.lesions] == regions
        assert (lesions.volumes >= wanted).all()

    def test_count_of_zero_places_no_lesions(self, terrain: Terrain) -> None:
        lesions = place_lesions(np.random.default_rng(0), terrain, count=0)
        assert not lesions.soft.any()
        assert lesions.volumes.shape == (0,)

    def test_lesions_without_room_are_left_out(self) -> None:
        tiny = np.zeros((12, 12, 12), bool)
        tiny[4:8, 4:8, 4:8] = True
        nothing = np.zeros_like(tiny)
        small = prepare_terrain(tiny, nothing, nothing, nothing)
        lesions = place_lesions(np.random.default_rng(0), small, count=30)
        assert 1 <= len(lesions.lesions) < 30
        assert all(lesions.volumes > 0)

    def test_fractions_of_tissue_are_accepted(self) -> None:
        anatomy = {
            name: ndimage.gaussian_filter(mask.astype(np.float32), 0.7)
            for name, mask in phantom().items()
        }
        terrain = prepare_terrain(**anatomy)
        lesions = place_lesions(np.random.default_rng(0), terrain, statistics=SMALL, count=20)
        np.testing.assert_array_equal(lesions.labels > 0, lesions.soft >= 0.5)
        assert (lesions.soft <= 1 - anatomy["ventricle"] + 1e-6).all()

    def test_wrong_calls_are_refused(self, terrain: Terrain) -> None:
        rng = np.random.default_rng(0)
        with pytest.raises(ValueError, match="not both"):
            place_lesions(rng, terrain, count=3, load=1.0)
        with pytest.raises(ValueError, match="differ in grid"):
            prepare_terrain(**{**phantom(), "cortex": np.zeros((3, 3, 3), bool)})
        with pytest.raises(ValueError, match="no white matter"):
            prepare_terrain(**{**phantom(), "white_matter": np.zeros((80, 80, 80), bool)})


class TestTimeBetweenVisits:
    def test_grown_lesion_contains_original_lesion(self, terrain: Terrain) -> None:
        before = placed(terrain, count=5)
        after = resize(before, np.full(5, 1.5))
        assert (after.volumes >= before.volumes).all()
        assert ((after.labels > 0) | (before.labels == 0)).all()
        aimed = np.array([round(lesion.volume) for lesion in after.lesions])
        assert np.median(np.abs(after.volumes - aimed)) <= 1

    def test_resize_by_factor_one_changes_nothing(self, terrain: Terrain) -> None:
        before = placed(terrain)
        after = resize(before, np.ones(len(before.lesions)))
        np.testing.assert_array_equal(after.soft, before.soft)

    def test_new_lesions_do_not_touch_existing_ones(self, terrain: Terrain) -> None:
        old = placed(terrain, count=10)
        both = place_lesions(
            np.random.default_rng(5), terrain, statistics=SMALL, count=4, beside=old
        )
        assert len(both.lesions) == 14
        np.testing.assert_array_equal(np.where(both.labels <= 10, both.labels, 0), old.labels)
        _, parts = ndimage.label(both.labels > 0, EVERY_NEIGHBOUR)
        assert parts == 14


class TestPaint:
    def test_mean_added_signal_equals_contrast_in_each_lesion(self, terrain: Terrain) -> None:
        rng = np.random.default_rng(1)
        lesions = place_lesions(rng, terrain, statistics=SMALL, count=6)
        wanted = sample_contrasts(rng, lesions.volumes, SMALL)
        painted = paint(np.zeros((3, 80, 80, 80)), lesions, wanted, rng, statistics=SMALL)
        numbers = np.arange(1, 7)
        for channel in range(3):
            found = ndimage.mean(painted[channel], lesions.labels, numbers)
            # clipped texture and halos of neighbours cause small deviations
            np.testing.assert_allclose(found, wanted[:, channel], atol=0.06)

    def test_contrast_is_relative_to_surrounding_tissue(self, terrain: Terrain) -> None:
        rng = np.random.default_rng(6)
        lesions = place_lesions(rng, terrain, statistics=SMALL, count=8)
        wanted = np.tile([1.0, -0.5, 0.8], (8, 1))
        # tissues differ by less than the difference that ``paint`` compensates
        tissue = np.where(ball(28), 0.0, 0.3) + np.where(ball(14), 0.1, 0.0)
        painted = paint(np.stack([tissue, -tissue, tissue]), lesions, wanted, rng)
        errors = []
        for number in range(1, 9):
            distance = ndimage.distance_transform_edt(lesions.labels != number)
            shell = (distance > 2) & (distance <= 4) & (lesions.labels == 0)
            found = painted[:, distance == 0].mean(axis=1) - np.median(painted[:, shell], axis=1)
            errors.append(found - wanted[0])
        assert np.abs(errors).mean() < 0.04

    @pytest.mark.parametrize("seed", range(5))
    def test_half_maximum_equals_label_without_texture_and_halo(
        self, terrain: Terrain, seed: int
    ) -> None:
        rng = np.random.default_rng(seed)
        figures = replace(SMOOTH, smallest=60.0)
        lesions = place_lesions(rng, terrain, statistics=figures, count=1)
        contrast = sample_contrasts(rng, lesions.volumes, figures)
        (painted,) = paint(np.zeros((1, 80, 80, 80)), lesions, contrast, rng, statistics=figures)
        # the largest fraction of a small lesion is below 1: scale the peak to a fraction of 1
        half = 0.5 * painted.max() / lesions.soft.max()
        disagree = (painted >= half * (1 + 1e-4)) != (lesions.soft >= 0.5)
        assert np.count_nonzero(disagree) <= 1

    def test_t1w_darkens_and_t2w_brightens(self, terrain: Terrain) -> None:
        rng = np.random.default_rng(3)
        lesions = placed(terrain, count=4)
        contrasts = np.tile([1.0, -0.5, 0.8], (4, 1))
        flair, t1w, t2w = paint(np.zeros((3, 80, 80, 80)), lesions, contrasts, rng)
        inside = lesions.labels > 0
        assert (flair[inside] > 0).all()
        np.testing.assert_allclose(t1w, -0.5 * flair, atol=1e-6)
        np.testing.assert_allclose(t2w, 0.8 * flair, atol=1e-6)

    def test_texture_has_the_measured_sd(self, terrain: Terrain) -> None:
        rng = np.random.default_rng(4)
        large = replace(SMALL, smallest=200.0, largest=1000.0, edge_mm=(0.8, 0.8))
        lesions = place_lesions(rng, terrain, statistics=large, count=6)
        contrasts = np.tile([1.25, -0.6, 1.1], (len(lesions.lesions), 1))
        flair, *_ = paint(np.zeros((3, 80, 80, 80)), lesions, contrasts, rng)
        inside = ndimage.standard_deviation(flair, lesions.labels, np.arange(1, 7))
        assert np.mean(inside) == pytest.approx(0.44, abs=0.06)

    def test_halo_fades_and_distant_tissue_is_unchanged(self, terrain: Terrain) -> None:
        rng = np.random.default_rng(5)
        lesions = place_lesions(rng, terrain, statistics=SMALL, count=3)
        flat = np.full((1, 80, 80, 80), 0.3, np.float32)
        (painted,) = paint(flat, lesions, np.ones((3, 1)), rng, statistics=SMALL)
        distance = ndimage.distance_transform_edt(lesions.labels == 0)
        rings = [painted[(distance > d) & (distance <= d + 1)].mean() - 0.3 for d in range(5)]
        assert all(first > second for first, second in pairwise(rings))
        assert 0.02 < rings[1] < 0.15
        np.testing.assert_allclose(painted[distance > 9], 0.3, atol=0.03)
        assert np.abs(painted[distance > 9] - 0.3).mean() < 1e-4

    def test_input_is_not_changed(self, terrain: Terrain) -> None:
        images = np.zeros((1, 80, 80, 80), np.float32)
        paint(images, placed(terrain, count=2), np.ones((2, 1)), np.random.default_rng(0))
        assert not images.any()

    def test_wrong_calls_are_refused(self, terrain: Terrain) -> None:
        lesions = placed(terrain, count=2)
        rng = np.random.default_rng(0)
        with pytest.raises(ValueError, match="differ in grid"):
            paint(np.zeros((1, 5, 5, 5)), lesions, np.ones((2, 1)), rng)
        with pytest.raises(ValueError, match="contrasts for 2 lesions"):
            paint(np.zeros((3, 80, 80, 80)), lesions, np.ones((2, 2)), rng)
