"""Check of one visit, with an intensity threshold on FLAIR in place of the networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.bids.visit import IDENTITY_COLUMNS
from bids_msseg.check.painting import SIZE_LEVELS, STRENGTHS
from bids_msseg.check.text import LESION_COLUMNS
from bids_msseg.check.visit import (
    Cut,
    Prepared,
    Segmenter,
    first_scan,
    paint_and_find,
    prepare,
    scan_again,
)
from bids_msseg.errors import DataError
from bids_msseg.imaging.brain_check import CheckedBrain
from bids_msseg.imaging.normalise import Stack, zscore
from bids_msseg.imaging.registration.result import Registration
from bids_msseg.imaging.volume import Volume
from bids_msseg.lesions.regions import Region, region_map
from bids_msseg.pipeline import brain as brain_steps
from bids_msseg.pipeline import preprocess as steps

CUT = Cut(threshold=0.5, min_volume=3.0)
OWN = (26, 40, 52)
"""Centre of the only lesion, whose radius is 5."""


def own_lesion(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    axes = np.indices(shape)
    return sum((axis - at) ** 2 for axis, at in zip(axes, OWN, strict=True)) <= 25


def prepared(brain: dict[str, NDArray[Any]], flair: NDArray[Any]) -> Prepared:
    inside = brain["inside"]
    images = np.zeros((3, *inside.shape), np.float32)
    images[0] = np.where(inside, flair, -3)
    affine = np.diag([-1.0, -1, 1, 1])
    return Prepared(
        "sub-01",
        Stack(images, (True, False, False), inside, affine, 2.5),
        np.zeros(inside.shape, bool),
        brain["anatomy"],
        region_map(brain["anatomy"], (1, 1, 1)),
        (1.0, 1.0, 1.0),
        np.zeros((3, 3)),
        (0.02, 0.1, 0.1),
        (),
    )


@pytest.fixture
def flat(brain: dict[str, NDArray[Any]]) -> Prepared:
    """FLAIR only, faint noise, and one lesion of 3 standard deviations."""
    shape = brain["inside"].shape
    noise = np.random.default_rng(3).normal(0, 0.05, shape)
    return prepared(brain, noise + 3 * own_lesion(shape))


@pytest.fixture
def eyes(brain: dict[str, NDArray[Any]]) -> Callable[..., Segmenter]:
    """Maker of segmenters: voxels above ``level`` are lesion, the anatomy is fixed."""

    def make(level: float, *, extra: Callable[[Stack], Any] = lambda _: False) -> Segmenter:
        def run(stack: Stack) -> dict[str, Volume]:
            bright = ((stack.data[0] > level) | extra(stack)) & stack.brain
            same = stack.brain.shape == brain["tissue"].shape
            tissue = brain["tissue"] if same else np.zeros(stack.brain.shape, np.uint8)
            probability = (0.9 * bright).astype(np.float32)
            maps = {
                "probability": probability,
                "candidate": probability,
                "candidates": bright.astype(np.uint8),
                "anatomy": tissue,
            }
            return {name: Volume(data, stack.affine) for name, data in maps.items()}

        return run

    return make


def test_first_scan_of_small_example(flat: Prepared, eyes: Callable[..., Segmenter]) -> None:
    first = first_scan(flat, eyes(1.0), CUT)
    lesion = own_lesion(flat.stack.brain.shape)
    np.testing.assert_array_equal(first.lesions > 0, lesion)
    assert first.load_ml == pytest.approx(lesion.sum() / 1000)
    assert first.canvas.contrast[0] == pytest.approx(3, abs=0.05)
    # nothing is painted on the lesion and 3 voxels around it
    around = ndimage.binary_dilation(lesion, iterations=3)
    assert not first.canvas.terrain.tissue[around].any()
    assert not first.canvas.terrain.tissue[~flat.stack.brain].any()


def test_lesions_in_excluded_voxels_are_not_counted(
    flat: Prepared, eyes: Callable[..., Segmenter]
) -> None:
    outside = own_lesion(flat.stack.brain.shape)
    first = first_scan(replace(flat, outside=outside), eyes(1.0), CUT)
    assert first.load_ml == 0


def test_brain_full_of_lesions_is_refused(flat: Prepared, eyes: Callable[..., Segmenter]) -> None:
    with pytest.raises(DataError):
        first_scan(flat, eyes(-9.0), CUT)


def test_painted_lesions_are_found(flat: Prepared, eyes: Callable[..., Segmenter]) -> None:
    """The faintest lesion has a mean contrast of 1.2."""
    run = eyes(0.4)
    first = first_scan(flat, run, CUT)
    lesions, draws = paint_and_find(first, run, CUT, draws=2, seed=1)
    assert [row["draw"] for row in draws] == [1, 2]
    assert {row["draw"] for row in lesions} == {1, 2}
    for row in lesions:
        assert set(row) == set(LESION_COLUMNS) - set(IDENTITY_COLUMNS)
        assert row["size"] in SIZE_LEVELS
        assert row["region"] in {region.label for region in Region}
        assert row["strength"] in STRENGTHS
        assert row["found"]
        assert row["found_mm3"] > 0
        assert row["max_probability"] == pytest.approx(0.9)
        # the affine inverts x and y
        place = -row["x"], -row["y"], row["z"]
        assert all(0 <= at < edge for at, edge in zip(place, flat.stack.brain.shape, strict=True))
    for draw in draws:
        own = [row for row in lesions if row["draw"] == draw["draw"]]
        assert draw["painted_ml"] == pytest.approx(sum(r["volume_mm3"] for r in own) / 1000)
        assert draw["found_ml"] == pytest.approx(sum(r["found_mm3"] for r in own) / 1000)


def test_lesions_not_segmented_by_networks_are_missed(
    flat: Prepared, eyes: Callable[..., Segmenter]
) -> None:
    """After painting, the segmenter finds no lesion, not even the visit's own."""
    run = eyes(2.5)
    first = first_scan(flat, run, CUT)
    blind = eyes(9.0)
    lesions, draws = paint_and_find(first, blind, CUT, draws=1, seed=1)
    assert lesions
    assert not any(row["found"] for row in lesions)
    assert {row["found_mm3"] for row in lesions} == {0}
    assert (draws[0]["found_ml"], draws[0]["n_false"]) == (0, 0)


def test_a_false_positive_is_counted(flat: Prepared, eyes: Callable[..., Segmenter]) -> None:
    """The spot has 4 voxels in the cortex and appears only after painting."""
    spot = np.zeros(flat.stack.brain.shape, bool)
    spot[39:43, 40, 75] = True

    def extra(stack: Stack) -> NDArray[np.bool_]:
        return spot & (stack.data is not flat.stack.data)

    first = first_scan(flat, eyes(0.8), CUT)
    _, without = paint_and_find(first, eyes(0.8), CUT, draws=1, seed=1)
    _, draws = paint_and_find(first, eyes(0.8, extra=extra), CUT, draws=1, seed=1)
    assert draws[0]["n_false"] == without[0]["n_false"] + 1
    assert draws[0]["false_ml"] == pytest.approx(without[0]["false_ml"] + 0.004)


def test_painted_lesions_depend_on_seed_and_visit_name(
    flat: Prepared, eyes: Callable[..., Segmenter]
) -> None:
    run = eyes(0.4)

    def rows(visit: Prepared, seed: int) -> list[dict[str, Any]]:
        return paint_and_find(first_scan(visit, run, CUT), run, CUT, draws=1, seed=seed)[0]

    once = rows(flat, 1)
    assert rows(flat, 1) == once
    assert rows(flat, 2) != once
    assert rows(replace(flat, name="sub-02"), 1) != once


def test_more_draws_do_not_change_first_draw(
    flat: Prepared, eyes: Callable[..., Segmenter]
) -> None:
    run = eyes(0.4)
    first = first_scan(flat, run, CUT)
    one, two = (paint_and_find(first, run, CUT, draws=n, seed=0)[0] for n in (1, 2))
    assert [row for row in two if row["draw"] == 1] == one


def test_pseudo_rescan_shows_same_lesion(
    brain: dict[str, NDArray[Any]], eyes: Callable[..., Segmenter]
) -> None:
    """Waves along x, and a lesion of 500 voxels where they are zero."""
    inside = brain["inside"]
    shape = inside.shape
    waves = np.sin(2 * np.pi * (np.indices(shape)[0] - OWN[0]) / 32)
    visit = prepared(brain, zscore(waves + 4 * own_lesion(shape), inside))
    run = eyes(3.0)
    first = first_scan(visit, run, CUT)
    assert first.load_ml == pytest.approx(own_lesion(shape).sum() / 1000)
    thickness: list[float] = []

    def spy(stack: Stack) -> Mapping[str, Volume]:
        thickness.append(stack.slice_mm)
        return run(stack)

    found = scan_again(first, spy, CUT, rescans=2, seed=0)
    assert thickness == [2.5, 2.5]
    assert [row["rescan"] for row in found] == [1, 2]
    for row in found:
        assert row["load_ml"] == pytest.approx(first.load_ml, rel=0.25)
        assert row["dice"] > 0.8
    assert scan_again(first, run, CUT, rescans=2, seed=0) == found
    assert scan_again(first, run, CUT, rescans=1, seed=0) == found[:1]


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stubs: registrations return the identity, and the brain mask is accepted."""

    def here(*_: object, **__: object) -> Registration:
        return Registration(np.eye(4), 0.2, 0.3)

    def check(_: object, mask: np.ndarray, *__: object, **___: object) -> CheckedBrain:
        return CheckedBrain(mask, np.zeros_like(mask))

    monkeypatch.setattr(steps, "register_rigid", here)
    monkeypatch.setattr(steps, "register_affine", here)
    monkeypatch.setattr(brain_steps, "check_brain", check)


@pytest.mark.usefixtures("registered")
def test_prepared_visit_has_expected_grid_blur_and_noise(
    tmp_path: Path, make_phantom: Callable[..., Any]
) -> None:
    """Slices of 6 mm for FLAIR, and of 4 mm along another axis for T1w."""
    flair = make_phantom("LAS", (4.0, 4.0, 6.0)).write(tmp_path / "FLAIR.nii.gz", "FLAIR")
    t1w = make_phantom("PSR", (2.0, 4.0, 2.0)).write(tmp_path / "T1w.nii.gz", "T1w")
    found = prepare("sub-01", {"FLAIR": flair, "T1w": t1w})
    shape = found.stack.brain.shape
    assert found.stack.present == (True, True, False)
    assert found.outside.shape == found.anatomy.shape == found.regions.shape == shape
    assert not found.outside.any()
    assert set(np.unique(found.regions[found.stack.brain])) <= set(Region)
    assert found.spacing == pytest.approx((4, 4, 6))
    slices = [np.sqrt((edge**2 - 1) / 4) for edge in (4, 4, 6)]
    np.testing.assert_allclose(found.blur[0], slices, rtol=1e-4)
    # edges of a phantom are given along R, A and S
    np.testing.assert_allclose(found.blur[1], np.sqrt([0.75, 3.75, 0.75]), rtol=1e-4)
    assert not found.blur[2].any()
    # default noise: it cannot be measured with slices of 4 mm or more, and there is no T2w
    assert found.noise[::2] == pytest.approx((0.1, 0.1))
