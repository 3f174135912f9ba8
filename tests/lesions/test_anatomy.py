"""Ventricles and cortex from the brain's own fluid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.lesions.anatomy import fluidity, own_anatomy
from bids_msseg.lesions.regions import RegionAnatomy

SPACINGS = [(1.5, 1.5, 1.5), (1.0, 1.0, 6.0)]


@dataclass(frozen=True, slots=True)
class Phantom:
    """A round brain of radius 45 mm with wide ventricles (14 mm) and a slit from the surface."""

    images: dict[str, NDArray[np.float32]]
    brain: NDArray[np.bool_]
    prior: NDArray[np.uint8]
    ventricle: NDArray[np.bool_]
    sulcus: NDArray[np.bool_]
    lesion: NDArray[np.bool_]


def phantom(spacing: tuple[float, float, float]) -> Phantom:
    axes = [(np.arange(n := round(96 / edge)) - (n - 1) / 2) * edge for edge in spacing]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    radius = np.sqrt(x**2 + y**2 + z**2)
    brain, ventricle = radius <= 45, radius <= 14
    sulcus = brain & (np.abs(x) < 2) & (y > 20)
    lesion = (np.sqrt((x - 16) ** 2 + y**2 + z**2) <= 5) & ~ventricle
    prior = np.select(
        [~brain, (z < -32), radius <= 8, radius >= 42],
        [
            RegionAnatomy.OUTSIDE,
            RegionAnatomy.INFRATENTORIAL,
            RegionAnatomy.VENTRICLE,
            RegionAnatomy.CORTEX,
        ],
        RegionAnatomy.SUPRATENTORIAL,
    ).astype(np.uint8)
    prior[sulcus | (brain & (np.abs(x) < 5) & (y > 18))] = RegionAnatomy.CORTEX
    fluid = ventricle | sulcus
    noise = np.random.default_rng(0).normal(0, 0.03, (3, *brain.shape))
    values = {
        "FLAIR": np.select([~brain, fluid, lesion], [0, 0.2, 1.5], 1.0) + noise[0],
        "T1w": np.select([~brain, fluid, lesion], [0, 0.2, 0.5], 1.0) + noise[1],
        "T2w": np.select([~brain, fluid, lesion], [0, 3.0, 2.0], 1.0) + noise[2],
    }
    images = {name: (50 * image).astype(np.float32) for name, image in values.items()}
    return Phantom(images, brain, prior, ventricle, sulcus, lesion)


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("contrasts", [("FLAIR",), ("FLAIR", "T1w"), ("FLAIR", "T1w", "T2w")])
def test_ventricles_are_segmented_from_own_fluid(
    spacing: tuple[float, float, float], contrasts: tuple[str, ...]
) -> None:
    made = phantom(spacing)
    images = {name: made.images[name] for name in contrasts}
    found = own_anatomy(images, made.brain, made.prior, spacing)
    assert found.from_own_fluid
    assert not found.note
    assert dice(made.prior == RegionAnatomy.VENTRICLE, made.ventricle) < 0.5
    ventricles = found.labels == RegionAnatomy.VENTRICLE
    assert dice(ventricles, made.ventricle) > 0.95
    assert not (ventricles & made.sulcus).any()
    assert not (ventricles & made.lesion).any()


@pytest.mark.parametrize("spacing", SPACINGS)
def test_sulci_are_cortex_and_posterior_fossa_is_from_template(
    spacing: tuple[float, float, float],
) -> None:
    made = phantom(spacing)
    found = own_anatomy(made.images, made.brain, made.prior, spacing).labels
    np.testing.assert_array_equal(found == RegionAnatomy.OUTSIDE, ~made.brain)
    np.testing.assert_array_equal(
        found == RegionAnatomy.INFRATENTORIAL, made.prior == RegionAnatomy.INFRATENTORIAL
    )
    upper = made.sulcus & (made.prior != RegionAnatomy.INFRATENTORIAL)
    assert (found[upper] == RegionAnatomy.CORTEX).all()
    assert set(np.unique(found)) == set(map(int, RegionAnatomy))


def test_padding_does_not_change_label_map() -> None:
    made, rim = phantom(SPACINGS[0]), [(3, 0), (2, 5), (0, 4)]
    first = own_anatomy(made.images, made.brain, made.prior, SPACINGS[0])
    wider = {name: np.pad(image, rim) for name, image in made.images.items()}
    second = own_anatomy(wider, np.pad(made.brain, rim), np.pad(made.prior, rim), SPACINGS[0])
    np.testing.assert_array_equal(np.pad(first.labels, rim), second.labels)


def test_intensity_scale_does_not_change_label_map() -> None:
    made = phantom(SPACINGS[1])
    louder = {name: 7 * image for name, image in made.images.items()}
    np.testing.assert_array_equal(
        own_anatomy(made.images, made.brain, made.prior, SPACINGS[1]).labels,
        own_anatomy(louder, made.brain, made.prior, SPACINGS[1]).labels,
    )


def test_template_labels_are_not_modified() -> None:
    made = phantom(SPACINGS[1])
    before = made.prior.copy()
    own_anatomy(made.images, made.brain, made.prior, SPACINGS[1])
    np.testing.assert_array_equal(made.prior, before)


class TestTemplateOnly:
    """Without usable fluid contrast, the template's label map is returned with a note."""

    def test_template_is_used_without_flair_contrast(self) -> None:
        made = phantom(SPACINGS[1])
        flat = {**made.images, "FLAIR": np.where(made.brain, 1, 0).astype(np.float32)}
        found = own_anatomy(flat, made.brain, made.prior, SPACINGS[1])
        assert not found.from_own_fluid
        assert "not darker" in found.note
        np.testing.assert_array_equal(found.labels, made.prior)

    def test_template_is_used_if_it_has_no_ventricles(self) -> None:
        made = phantom(SPACINGS[1])
        prior = np.where(
            made.prior == RegionAnatomy.VENTRICLE, RegionAnatomy.SUPRATENTORIAL, made.prior
        )
        found = own_anatomy(made.images, made.brain, prior, SPACINGS[1])
        assert not found.from_own_fluid

    def test_template_is_used_if_ventricles_are_too_large(self) -> None:
        made = phantom(SPACINGS[1])
        deep = ndimage.distance_transform_edt(made.brain, SPACINGS[1]) > 13
        flair = np.where(deep, np.float32(10), made.images["FLAIR"])
        found = own_anatomy({"FLAIR": flair}, made.brain, made.prior, SPACINGS[1])
        assert not found.from_own_fluid
        assert "extend too far" in found.note


def test_t1w_without_fluid_contrast_is_ignored() -> None:
    made = phantom(SPACINGS[1])
    grey = np.where(made.brain, 30, 0).astype(np.float32)
    np.testing.assert_array_equal(
        own_anatomy({**made.images, "T1w": grey}, made.brain, made.prior, SPACINGS[1]).labels,
        own_anatomy(
            {name: made.images[name] for name in ("FLAIR", "T2w")},
            made.brain,
            made.prior,
            SPACINGS[1],
        ).labels,
    )


def test_fluidity_is_zero_in_lesions_and_outside_brain() -> None:
    made = phantom(SPACINGS[1])
    found = fluidity(made.images, made.brain, made.prior)
    assert found is not None
    assert found.min() == 0
    assert found.max() <= 1
    assert not found[made.lesion].any()
    assert not found[~made.brain].any()


def _flair_on_line(centre: float, *pools: tuple[float, float]) -> tuple[NDArray[np.float32], ...]:
    """A brain of radius 45 mm in steps of 1 mm along x, 13 voxels thick; fluid in pools."""
    x = np.broadcast_to(np.arange(-48, 49).reshape(-1, 1, 1), (97, 13, 13))
    brain = np.abs(x) <= 45
    fluid = (np.abs(x - centre) <= 6) & brain
    for low, high in pools:
        fluid |= (x >= low) & (x <= high)
    prior = np.select(
        [~brain, np.abs(x - centre) <= 5, np.abs(x) >= 42],
        [RegionAnatomy.OUTSIDE, RegionAnatomy.VENTRICLE, RegionAnatomy.CORTEX],
        RegionAnatomy.SUPRATENTORIAL,
    ).astype(np.uint8)
    flair = np.select([~brain, fluid], [0, 10], 50).astype(np.float32)
    return flair, brain, prior


def _labels_on_line(*pools: tuple[float, float]) -> list[int]:
    flair, brain, prior = _flair_on_line(0, *pools)
    found = own_anatomy({"FLAIR": flair}, brain, prior, (1, 1, 1))
    assert found.from_own_fluid
    return found.labels[48:, 6, 6].tolist()


def test_cortex_is_limited_to_3_mm_of_fluid_and_5_mm_of_template() -> None:
    """x from 0: the ventricle to 6; cortex within 3 mm of the outside at 46."""
    plain = _labels_on_line()
    ventricle, tissue, cortex = (
        RegionAnatomy.VENTRICLE,
        RegionAnatomy.SUPRATENTORIAL,
        RegionAnatomy.CORTEX,
    )
    assert plain[:7] == [ventricle] * 7
    assert plain[7:43] == [tissue] * 36
    assert plain[43:] == [cortex] * 3 + [RegionAnatomy.OUTSIDE] * 3
    # a sulcus from 34 to 38: 3 mm beside it, but no more than 5 mm from 42
    sulcus = _labels_on_line((34, 38))
    assert sulcus[7:37] == [tissue] * 30
    assert sulcus[37:46] == [cortex] * 5 + [tissue] + [cortex] * 3


def test_template_is_used_below_minimum_ventricle_volume() -> None:
    flair, brain, prior = _flair_on_line(0)
    # 13 x 13 x 13 voxels of fluid: 2.2 mL at 1 mm
    for edge, own in ((0.62, True), (0.60, False)):
        found = own_anatomy({"FLAIR": flair}, brain, prior, (1, edge, edge * 0.6))
        assert found.from_own_fluid is own
        assert bool(found.note) is not own


def test_fluid_channel_to_surface_is_only_partly_ventricle() -> None:
    """A channel from the ventricle to the surface belongs to both, about half each."""
    made = phantom(SPACINGS[0])
    shape = made.brain.shape
    x, y, z = ((np.arange(n) - (n - 1) / 2) * 1.5 for n in shape)
    channel = made.brain & (
        (np.abs(x) < 3)[:, None, None] & (y > 0)[None, :, None] & (np.abs(z) < 3)[None, None, :]
    )
    flair = np.where(channel, np.float32(10), made.images["FLAIR"])
    found = own_anatomy({"FLAIR": flair}, made.brain, made.prior, SPACINGS[0])
    middle = found.labels[shape[0] // 2, :, shape[2] // 2]
    radius = np.abs(y)
    assert (middle[(y > 0) & (radius < 12)] == RegionAnatomy.VENTRICLE).all()
    assert (middle[(y > 0) & (radius > 36)] != RegionAnatomy.VENTRICLE).all()


def test_template_on_different_grid_is_refused() -> None:
    made = phantom(SPACINGS[1])
    with pytest.raises(ValueError, match=r"and template \("):
        own_anatomy(made.images, made.brain, made.prior[1:], SPACINGS[1])


def test_contrast_on_different_grid_is_refused() -> None:
    made = phantom(SPACINGS[1])
    with pytest.raises(ValueError, match="T1w"):
        own_anatomy(
            {**made.images, "T1w": made.images["T1w"][1:]}, made.brain, made.prior, SPACINGS[1]
        )


def test_fluidity_is_scaled_from_tissue_to_ventricle() -> None:
    flair = np.array([0.0, 0.5, 1.0, 1.0, 1.0]).reshape(5, 1, 1)
    prior = np.array([1, 4, 4, 4, 4]).reshape(5, 1, 1)
    found = fluidity({"FLAIR": flair}, prior > 0, prior)
    assert found is not None
    assert found.ravel().tolist() == [1.0, 0.5, 0.0, 0.0, 0.0]
