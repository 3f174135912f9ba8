from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.training.synthesis import tissues
from bids_msseg.training.synthesis.choroid import prepare_choroid_terrain
from bids_msseg.training.synthesis.tissues import (
    BROAD_STATISTICS,
    FAR,
    LATERAL,
    LabelMap,
    LesionDraw,
    Tissue,
    brain_distance,
    draw_lesions,
    lesion_terrain,
    load_label_map,
    save_label_map,
    tissue_classes,
    ventricle_distance,
)

WHITE, CORTEX, LEFT, RIGHT, SULCUS, SKULL = 2, 3, 4, 43, 24, 515


def freesurfer(edge: int = 64) -> NDArray[np.int32]:
    """A ball of brain: cortex on white matter, two ventricles 4 mm apart, fluid and skull."""
    x, y, z = np.indices((edge, edge, edge)) - (edge - 1) / 2
    away = np.sqrt(x**2 + y**2 + z**2)
    labels = np.zeros(away.shape, np.int32)
    for radius, code in ((28, SKULL), (24, SULCUS), (22, CORTEX), (19, WHITE)):
        labels[away < radius] = code
    body = (np.abs(y) < 8) & (np.abs(z) < 3)
    labels[body & (x < -2) & (x > -6)] = LEFT
    labels[body & (x > 2) & (x < 6)] = RIGHT
    return labels


@pytest.fixture(scope="module")
def draws() -> list[LesionDraw]:
    """Three sets of lesions with small loads, because the ball has only 44 mL."""
    labels = freesurfer()
    terrain = lesion_terrain(tissue_classes(labels))
    lateral = np.isin(labels, [code for side in LATERAL for code in side])
    plexus = prepare_choroid_terrain(lateral, np.zeros_like(lateral))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tissues, "LOAD_ML", (0.2, 1.0))
        rng = np.random.default_rng(1)
        return [draw_lesions(rng, terrain, plexus, BROAD_STATISTICS) for _ in range(3)]


def test_tissue_classes_maps_labels_and_finds_septum() -> None:
    tissue = tissue_classes(freesurfer())
    labels = freesurfer()
    assert (tissue[labels == CORTEX] == Tissue.CORTEX).all()
    assert (tissue[labels == SULCUS] == Tissue.FLUID).all()
    assert (tissue[labels == SKULL] == Tissue.OUTSIDE).all()
    assert (tissue[labels == 0] == Tissue.AIR).all()
    assert (tissue[(labels == LEFT) | (labels == RIGHT)] == Tissue.VENTRICLE).all()
    # between the ventricles lie the planes 30 to 33; 31 and 32 are within three steps of both
    septum = np.argwhere(tissue == Tissue.SEPTUM)
    assert (tissue[31:33, 28:36, 30:34] == Tissue.SEPTUM).all()
    assert septum[:, 0].min() == 31
    assert septum[:, 0].max() == 32
    assert set(np.unique(tissue[labels == WHITE])) == {Tissue.WHITE, Tissue.SEPTUM}


def test_unknown_label_is_outside_brain() -> None:
    labels = freesurfer()
    labels[32, 32, 48] = 99
    assert tissue_classes(labels)[32, 32, 48] == Tissue.OUTSIDE


def test_brain_distance_is_zero_in_sulci_but_not_in_wide_gaps() -> None:
    tissue = np.full((60, 60, 60), Tissue.AIR, np.uint8)
    tissue[15:45, 15:45, 15:45] = Tissue.WHITE
    # a sulcus of 3 voxels, 9 deep; and a gap of 16, too wide to be one
    tissue[20:23, 15:45, 36:45] = Tissue.FLUID
    tissue[26:42, 15:45, 36:45] = Tissue.FLUID
    rim = brain_distance(tissue)
    assert (rim[20:23, 21:39, 36:43] == 0).all()
    assert rim[34, 30, 44] > 30
    assert (rim[tissue == Tissue.WHITE] == 0).all()
    # outside the brain in tenths of a mm: 10 at one voxel, 20 at two, at most 255
    assert [int(rim[30, 30, 14 - step]) for step in range(3)] == [10, 20, 30]
    assert int(rim.max()) <= FAR


def test_ventricle_distance_is_in_twentieths_of_mm() -> None:
    lateral = np.isin(freesurfer(), (LEFT, RIGHT))
    halo = ventricle_distance(lateral)
    assert (halo[lateral] == 0).all()
    exact = 20 * ndimage.distance_transform_edt(~lateral)
    np.testing.assert_array_equal(halo, np.minimum(exact, 255).astype(np.uint8))
    nothing = np.zeros_like(lateral)
    assert (ventricle_distance(nothing) == FAR).all()


def test_lesions_lie_in_white_matter_and_have_a_soft_rim(draws: list[LesionDraw]) -> None:
    tissue = tissue_classes(freesurfer())
    for draw in draws:
        core = draw.owner > 0
        assert core.any()
        kinds = tissue.ravel()[draw.voxels]
        # a lesion may reach the cortex' lower layer, never fluid, air or skull
        assert np.isin(kinds[core], (Tissue.WHITE, Tissue.SEPTUM, Tissue.CORTEX)).all()
        assert (draw.fraction[core] >= 127).all()
        assert (draw.fraction[~core] <= 128).all()
        assert len(np.unique(draw.voxels)) == len(draw.voxels)
        assert draw.fraction.sum() / 255 <= 1.5 * 1000
    assert not np.array_equal(draws[0].voxels, draws[1].voxels)


def test_broad_statistics_median_volume_and_region_shares() -> None:
    assert BROAD_STATISTICS.median_volume == 30.0
    assert sum(BROAD_STATISTICS.places.values()) == pytest.approx(1)


def test_saved_label_map_is_loaded_unchanged(label_map: LabelMap, tmp_path: Path) -> None:
    save_label_map(label_map, tmp_path / "one.npz")
    again = load_label_map(tmp_path / "one.npz")
    assert again.name == label_map.name
    for name in ("tissue", "rim", "halo"):
        np.testing.assert_array_equal(getattr(label_map, name), getattr(again, name))
    assert len(again.draws) == len(label_map.draws)
    for before, after in zip(label_map.draws, again.draws, strict=True):
        for field in dataclasses.fields(before):
            left, right = getattr(before, field.name), getattr(after, field.name)
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(left, right)
    assert [path.name for path in tmp_path.iterdir()] == ["one.npz"]
