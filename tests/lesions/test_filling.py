"""Filled lesions look like the white matter around them, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.lesions.filling import BORDER_MM, MAX_NOISE_SD, fill_lesions
from bids_msseg.lesions.regions import near

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]
ISOTROPIC = (1.0, 1.0, 1.0)
SHAPES = hnp.array_shapes(min_dims=3, max_dims=3, min_side=2, max_side=6)


def ball(shape: tuple[int, int, int], centre: tuple[int, int, int], radius: float) -> Mask:
    """Voxels at most ``radius`` voxels from a voxel."""
    offset = np.indices(shape) - np.array(centre).reshape(3, 1, 1, 1)
    inside: Mask = (offset**2).sum(axis=0) <= radius**2
    return inside


def everywhere(shape: tuple[int, ...], value: float) -> Image:
    return np.full(shape, value, np.float32)


class TestMean:
    @pytest.mark.parametrize("level", [100.0, 0.1, 1234.5678, 3.0e4])
    @pytest.mark.parametrize("texture", [0.0, 1.0])
    def test_constant_white_matter_is_continued_exactly(
        self, level: float, texture: float
    ) -> None:
        lesion = ball((20, 21, 22), (9, 10, 11), 4)
        image = np.where(lesion, np.float32(0.6 * level), np.float32(level))
        filled = fill_lesions(
            image, lesion, np.ones(lesion.shape, bool), ISOTROPIC, texture=texture
        )
        np.testing.assert_array_equal(filled, everywhere(lesion.shape, level))
        assert filled.dtype == np.float32

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_intensity_gradient_is_continued(self, axis: int) -> None:
        """The lesion is off centre: the mean of all white matter would be wrong there."""
        centre = [20, 20, 20]
        centre[axis] = 10
        lesion = ball((41, 41, 41), (centre[0], centre[1], centre[2]), 4)
        slope = 2.0
        original = (100 + slope * np.indices(lesion.shape)[axis]).astype(np.float32)
        image = np.where(lesion, np.float32(10), original)
        white = np.ones(lesion.shape, bool)
        error = fill_lesions(image, lesion, white, ISOTROPIC, texture=0)[lesion] - original[lesion]
        assert np.abs(error).max() < 3 * slope
        assert abs(error.mean()) < slope

    def test_lesion_far_from_white_matter_gets_its_mean(self) -> None:
        image = everywhere((120, 4, 4), 0)
        white = np.zeros(image.shape, bool)
        white[:10] = True
        image[:5], image[5:10] = 100, 120
        lesion = np.zeros(image.shape, bool)
        lesion[110, 1:3, 1:3] = True
        filled = fill_lesions(image, lesion, white, ISOTROPIC, texture=0)
        assert np.unique(filled[lesion]).tolist() == [110]
        np.testing.assert_array_equal(filled[~lesion], image[~lesion])

    @pytest.mark.parametrize(("edge", "equal"), [(1.0, True), (3.0, False)])
    @pytest.mark.parametrize("axes", [(0, 1), (1, 2), (2, 0)])
    def test_distance_is_in_mm(self, axes: tuple[int, int], edge: float, equal: bool) -> None:
        """Two voxels of white matter, four voxels away along a short and a long edge."""
        image = everywhere((21, 21, 21), 0)
        white = np.zeros(image.shape, bool)
        spacing = [1.0, 1.0, 1.0]
        spacing[axes[1]] = edge
        for axis, value in zip(axes, (100, 120), strict=True):
            place = [10, 10, 10]
            place[axis] = 14
            white[tuple(place)], image[tuple(place)] = True, value
        lesion = np.zeros(image.shape, bool)
        lesion[10, 10, 10] = True
        value = fill_lesions(image, lesion, white, spacing, texture=0)[10, 10, 10]
        assert (abs(value - 110) < 1e-3) if equal else (value < 109.9)

    def test_mean_is_weighted_by_white_matter_probability(self) -> None:
        image = everywhere((120, 4, 4), 0)
        white = everywhere(image.shape, 0)
        image[:5], image[5:10] = 100, 140
        white[:5], white[5:10] = 1.0, 0.6
        lesion = np.zeros(image.shape, bool)
        lesion[110, 1, 1] = True
        filled = fill_lesions(image, lesion, white, ISOTROPIC, texture=0)
        assert filled[110, 1, 1] == pytest.approx((100 + 0.6 * 140) / 1.6, abs=1e-3)

    def test_missed_lesion_does_not_affect_filling(self) -> None:
        shape = (24, 24, 24)
        lesion, missed = ball(shape, (12, 12, 8), 3), ball(shape, (12, 12, 16), 3)
        image = np.where(lesion | missed, np.float32(160), np.float32(100))
        filled = fill_lesions(image, lesion, np.ones(shape, bool), ISOTROPIC)
        np.testing.assert_array_equal(filled[lesion], 100)
        np.testing.assert_array_equal(filled[missed], 160)


class TestBorder:
    @pytest.mark.parametrize(("axis", "edge"), [(0, 6.0), (1, 6.0), (2, 6.0), (2, 1.0)])
    def test_partial_volume_within_border_distance_is_filled(self, axis: int, edge: float) -> None:
        """All six face neighbours hold a part of the lesion; a thick slice is out of reach."""
        image = everywhere((15, 15, 15), 100)
        lesion = np.zeros(image.shape, bool)
        lesion[7, 7, 7] = True
        rim = ndimage.binary_dilation(lesion) & ~lesion
        image[lesion], image[rim] = 40, 70
        spacing = [1.0, 1.0, 1.0]
        spacing[axis] = edge
        filled = fill_lesions(image, lesion, np.ones(image.shape, bool), spacing)
        kept = np.argwhere(filled != 100) - 7
        expected = [] if edge < BORDER_MM else [[-1 if k == axis else 0 for k in range(3)]]
        expected += [[-value for value in row] for row in expected]
        assert sorted(kept.tolist()) == sorted(expected)

    def test_voxels_outside_white_matter_are_unchanged(self) -> None:
        rng = np.random.default_rng(3)
        image = rng.normal(100, 5, (30, 30, 30)).astype(np.float32)
        lesion = ball(image.shape, (15, 15, 15), 4)
        white = np.ones(image.shape, bool)
        white[:, :, 20:] = False  # the lesion ends at 19
        filled = fill_lesions(image, lesion, white, ISOTROPIC)
        reach = lesion | (near(lesion, BORDER_MM, ISOTROPIC) & white)
        np.testing.assert_array_equal(filled[~reach], image[~reach])
        np.testing.assert_array_equal(filled[:, :, 20:], image[:, :, 20:])
        assert (filled[lesion] != image[lesion]).mean() > 0.99

    def test_only_white_matter_border_is_filled(self) -> None:
        image = everywhere((9, 9, 9), 100)
        lesion = np.zeros(image.shape, bool)
        lesion[4, 4, 4] = True
        image[4, 4, 4], image[4, 4, 3], image[4, 4, 5] = 40, 70, 70
        white = everywhere(image.shape, 1.0)
        white[4, 4, 3] = 0.49
        filled = fill_lesions(image, lesion, white, ISOTROPIC)
        assert filled[4, 4, 3:6].tolist() == [70, 100, 100]


class TestTexture:
    @staticmethod
    def head(width: float) -> tuple[Image, Mask]:
        """White matter of mean 200 and standard deviation 6, smoothed noise, with a lesion."""
        noise = np.random.default_rng(5).standard_normal((48, 48, 48))
        noise = ndimage.gaussian_filter(noise, width, mode="wrap")
        lesion = np.zeros(noise.shape, bool)
        lesion[14:34, 14:34, 14:34] = True
        return (200 + 6 * noise / noise.std()).astype(np.float32), lesion

    @staticmethod
    def correlation(image: Image, axis: int) -> float:
        """Correlation of neighbours."""
        along = np.moveaxis(image, axis, 0)
        return float(np.corrcoef(along[1:].ravel(), along[:-1].ravel())[0, 1])

    @pytest.mark.parametrize("width", [0.0, 0.8, 1.2])
    def test_texture_matches_white_matter(self, width: float) -> None:
        original, lesion = self.head(width)
        image = np.where(lesion, np.float32(100), original)
        filled = fill_lesions(image, lesion, np.ones(lesion.shape, bool), ISOTROPIC)
        inside = filled[14:34, 14:34, 14:34]
        assert inside.mean() == pytest.approx(200, abs=3)
        assert inside.std() == pytest.approx(6, rel=0.25)
        for axis in range(3):
            expected = self.correlation(original, axis)
            assert self.correlation(inside, axis) == pytest.approx(expected, abs=0.15)

    def test_texture_smoothness_is_estimated_per_axis(self) -> None:
        noise = np.random.default_rng(6).standard_normal((48, 48, 48))
        noise = ndimage.gaussian_filter(noise, (1.2, 0, 0), mode="wrap")
        image = (200 + 6 * noise / noise.std()).astype(np.float32)
        lesion = np.zeros(image.shape, bool)
        lesion[14:34, 14:34, 14:34] = True
        filled = fill_lesions(image, lesion, np.ones(lesion.shape, bool), ISOTROPIC)
        along, across, _ = (self.correlation(filled[14:34, 14:34, 14:34], k) for k in range(3))
        assert along > 0.6
        assert abs(across) < 0.2

    def test_texture_amplitude_scales_with_parameter(self) -> None:
        original, lesion = self.head(0.8)
        white = np.ones(lesion.shape, bool)
        smooth = fill_lesions(original, lesion, white, ISOTROPIC, texture=0)[lesion]
        half, whole = (
            fill_lesions(original, lesion, white, ISOTROPIC, texture=texture)[lesion] - smooth
            for texture in (0.5, 1.0)
        )
        np.testing.assert_allclose(2 * half, whole, atol=1e-3)
        assert smooth.std() < 0.5 * whole.std()

    def test_texture_is_reproducible_for_same_seed(self) -> None:
        original, lesion = self.head(0.8)
        white = np.ones(lesion.shape, bool)
        first, again, made, other = (
            fill_lesions(original, lesion, white, ISOTROPIC, rng=rng)
            for rng in (3, 3, np.random.default_rng(3), 4)
        )
        np.testing.assert_array_equal(first, again)
        np.testing.assert_array_equal(first, made)
        assert (first != other).any()


class TestInput:
    def test_no_lesion_gives_the_same_array(self) -> None:
        image = everywhere((3, 4, 5), 7)
        nothing = np.zeros(image.shape, bool)
        assert fill_lesions(image, nothing, ~nothing, ISOTROPIC) is image
        assert fill_lesions(image, nothing, nothing, ISOTROPIC) is image

    def test_input_image_is_not_modified(self) -> None:
        image = everywhere((5, 5, 5), 7)
        image[2, 2, 2] = 3
        fill_lesions(image, image == 3, image == 7, ISOTROPIC)
        assert image[2, 2, 2] == 3

    def test_label_map_is_accepted_as_lesion_mask(self) -> None:
        image = everywhere((9, 9, 9), 100)
        labels = np.zeros(image.shape, np.int32)
        labels[2, 2, 2], labels[6, 6, 6] = 1, 7
        image[labels > 0] = 50
        filled = fill_lesions(image, labels, np.ones(image.shape, bool), ISOTROPIC)
        np.testing.assert_array_equal(filled, 100)

    @pytest.mark.parametrize("white", ["nothing", "lesion", "unsure"])
    def test_missing_white_matter_is_refused(self, white: str) -> None:
        lesion = np.zeros((4, 4, 4), bool)
        lesion[1, 1, 1] = True
        masks = {"nothing": lesion & False, "lesion": lesion, "unsure": np.full((4, 4, 4), 0.4)}
        with pytest.raises(ValueError, match="no voxel outside lesions"):
            fill_lesions(everywhere((4, 4, 4), 1), lesion, masks[white], ISOTROPIC)

    @pytest.mark.parametrize("other", ["lesions", "white matter"])
    def test_different_grids_are_refused(self, other: str) -> None:
        image = everywhere((3, 3, 3), 1)
        fitting, wrong = np.ones((3, 3, 3), bool), np.ones((3, 3, 4), bool)
        lesions, white = (wrong, fitting) if other == "lesions" else (fitting, wrong)
        with pytest.raises(ValueError, match="differ in grid"):
            fill_lesions(image, lesions, white, ISOTROPIC)


@settings(max_examples=60)
@given(
    SHAPES.flatmap(
        lambda shape: st.tuples(
            hnp.arrays(np.float32, shape, elements=st.floats(0, 1000, width=32)),
            hnp.arrays(bool, shape, elements=st.booleans(), fill=st.nothing()),
            hnp.arrays(bool, shape, elements=st.booleans(), fill=st.nothing()),
        )
    ),
    st.sampled_from([(1.0, 1.0, 1.0), (0.5, 1.0, 3.0), (6.0, 0.8, 0.8)]),
)
def test_filled_values_are_near_range_of_white_matter(
    arrays: tuple[Image, Mask, Mask], spacing: tuple[float, float, float]
) -> None:
    image, lesion, white = arrays
    around = white & ~lesion
    assume(around.any() and lesion.any())
    low, high = float(image[around].min()), float(image[around].max())
    smooth = fill_lesions(image, lesion, white, spacing, texture=0)
    noisy = fill_lesions(image, lesion, white, spacing)
    most = MAX_NOISE_SD * (high - low)
    for filled, margin in ((smooth, 0.0), (noisy, most)):
        assert filled[lesion].min() >= low - margin - 0.01
        assert filled[lesion].max() <= high + margin + 0.01
        untouched = ~lesion & ~(white & near(lesion, BORDER_MM, spacing))
        np.testing.assert_array_equal(filled[untouched], image[untouched])
