from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.cascade import heads
from bids_msseg.cascade.heads import (
    BROAD_STATISTICS,
    FAR,
    Head,
    Tissue,
    brain_distance,
    load_head,
    may_see,
    place_choroid,
    prepare_anatomy,
    prepare_patient,
    save_head,
    tissue_classes,
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


@pytest.fixture(autouse=True, scope="module")
def few_lesions() -> Iterator[None]:
    """A ball of 44 mL has no room for the loads of a brain."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heads, "LOAD_ML", (0.2, 1.0))
        yield


@pytest.fixture(scope="module")
def head() -> Head:
    return prepare_anatomy("ball", freesurfer(), np.random.default_rng(1), draws=3)


def test_numbers_become_tissues_and_what_parts_the_ventricles_is_septum() -> None:
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


def test_an_unknown_number_is_no_brain() -> None:
    labels = freesurfer()
    labels[32, 32, 48] = 99
    assert tissue_classes(labels)[32, 32, 48] == Tissue.OUTSIDE


def test_lesions_of_the_map_are_filled_where_asked() -> None:
    labels = freesurfer()
    labels[30:34, 42:46, 30:34] = 25
    found = []
    for white in (False, True):
        made = prepare_anatomy(
            "ball", labels, np.random.default_rng(1), draws=1, lesion_is_white=white
        )
        found.append(set(np.unique(made.tissue[28:32, 40:44, 28:32]).tolist()))
    assert found == [{Tissue.OUTSIDE}, {Tissue.WHITE}]


def test_a_head_is_cropped_to_its_brain_and_eight_voxels(head: Head) -> None:
    brain = np.argwhere(np.isin(head.tissue, (Tissue.CORTEX, Tissue.WHITE)))
    assert brain.min(0).tolist() == [8, 8, 8]
    assert (np.array(head.tissue.shape) - 1 - brain.max(0)).tolist() == [8, 8, 8]
    assert head.tissue.shape == head.rim.shape == head.halo.shape
    assert head.patient == ""


def test_a_sulcus_belongs_to_the_brain_and_the_open_does_not() -> None:
    tissue = np.full((60, 60, 60), Tissue.AIR, np.uint8)
    tissue[15:45, 15:45, 15:45] = Tissue.WHITE
    # a sulcus of 3 voxels, 9 deep; and a gap of 16, too wide to be one
    tissue[20:23, 15:45, 36:45] = Tissue.FLUID
    tissue[26:42, 15:45, 36:45] = Tissue.FLUID
    rim = brain_distance(tissue)
    assert (rim[20:23, 21:39, 36:43] == 0).all()
    assert rim[34, 30, 44] > 30
    assert (rim[tissue == Tissue.WHITE] == 0).all()
    # tenths of a mm in the open: one voxel away is 10, two 20; all from 25.5 mm on alike
    assert [int(rim[30, 30, 14 - step]) for step in range(3)] == [10, 20, 30]
    assert int(rim.max()) <= FAR


def test_the_halo_is_distance_to_the_ventricles_in_twentieths(head: Head) -> None:
    lateral = head.tissue == Tissue.VENTRICLE
    assert (head.halo[lateral] == 0).all()
    exact = 20 * ndimage.distance_transform_edt(~lateral)
    np.testing.assert_array_equal(head.halo, np.minimum(exact, 255).astype(np.uint8))


def test_without_ventricles_there_is_no_halo() -> None:
    labels = freesurfer()
    labels[np.isin(labels, (LEFT, RIGHT))] = WHITE
    made = prepare_anatomy("solid", labels, np.random.default_rng(0), draws=1)
    assert (made.halo == FAR).all()
    assert not made.draws[0].choroid.size
    assert Tissue.SEPTUM not in made.tissue


def test_lesions_lie_in_white_matter_and_have_a_soft_rim(head: Head) -> None:
    for draw in head.draws:
        core = draw.owner > 0
        assert core.any()
        kinds = head.tissue.ravel()[draw.voxels]
        # a lesion may reach the cortex' lower layer, never fluid, air or skull
        assert np.isin(kinds[core], (Tissue.WHITE, Tissue.SEPTUM, Tissue.CORTEX)).all()
        assert (draw.fraction[core] >= 127).all()
        assert (draw.fraction[~core] <= 128).all()
        assert len(np.unique(draw.voxels)) == len(draw.voxels)
        assert draw.fraction.sum() / 255 <= 1.5 * 1000


def test_sets_of_lesions_differ_and_the_same_seed_gives_the_same(head: Head) -> None:
    again = prepare_anatomy("ball", freesurfer(), np.random.default_rng(1), draws=3)
    for one, other in zip(head.draws, again.draws, strict=True):
        np.testing.assert_array_equal(one.voxels, other.voxels)
        np.testing.assert_array_equal(one.fraction, other.fraction)
    assert not np.array_equal(head.draws[0].voxels, head.draws[1].voxels)


def test_choroid_plexus_lies_in_the_back_half_of_the_ventricles() -> None:
    lateral = np.isin(freesurfer(), (LEFT, RIGHT))
    for seed in range(5):
        found = place_choroid(np.random.default_rng(seed), lateral)
        places = np.stack(np.unravel_index(found, lateral.shape), 1)
        assert lateral[tuple(places.T)].all()
        # centres are behind the middle, y = 31; half axes are at most 6 mm
        assert len(places) > 0
        assert places[:, 1].max() <= 37
        assert places[:, 1].mean() <= 32


def test_broad_statistics_come_from_nobody() -> None:
    assert BROAD_STATISTICS.median_volume == 30.0
    assert sum(BROAD_STATISTICS.places.values()) == pytest.approx(1)


def _patient() -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    tissue = np.zeros((50, 50, 50), np.uint8)
    tissue[10:40, 10:40, 10:40] = Tissue.CORTEX
    tissue[14:36, 14:36, 14:36] = Tissue.WHITE
    share = np.zeros(tissue.shape, np.float32)
    share[20:24, 20:24, 20:24] = 1
    share[24, 20:24, 20:24] = 0.4
    share[30:32, 30:32, 30:32] = 1.5
    return tissue, share


def test_a_patients_own_lesions_are_kept_as_they_are() -> None:
    tissue, share = _patient()
    head = prepare_patient("lj99", "sub-lj99", tissue, share)
    assert head.patient == "sub-lj99"
    (draw,) = head.draws
    kept = np.zeros(head.tissue.shape, np.float32)
    kept.ravel()[draw.voxels] = draw.fraction / 255
    np.testing.assert_allclose(kept, share[2:48, 2:48, 2:48].clip(0, 1), atol=1 / 510)
    owner = np.zeros(head.tissue.shape, int)
    owner.ravel()[draw.voxels] = draw.owner
    # the larger one is the first; the rim belongs to none
    assert (owner[18:22, 18:22, 18:22] == 1).all()
    assert (owner[28:30, 28:30, 28:30] == 2).all()
    assert (owner[22, 18:22, 18:22] == 0).all()
    # where the ventricles are is not known, and no choroid plexus is laid
    assert (head.halo == FAR).all()
    assert not draw.choroid.size


def test_a_head_survives_the_disk(head: Head, tmp_path: Path) -> None:
    for one in (head, prepare_patient("p", "sub-p", *_patient())):
        save_head(one, tmp_path / "h.npz")
        again = load_head(tmp_path / "h.npz")
        assert (again.name, again.patient) == (one.name, one.patient)
        for name in ("tissue", "rim", "halo"):
            np.testing.assert_array_equal(getattr(one, name), getattr(again, name))
        assert len(again.draws) == len(one.draws)
        for before, after in zip(one.draws, again.draws, strict=True):
            for field in dataclasses.fields(before):
                left, right = getattr(before, field.name), getattr(after, field.name)
                assert left.dtype == right.dtype
                np.testing.assert_array_equal(left, right)
    assert [path.name for path in tmp_path.iterdir()] == ["h.npz"]


def test_a_head_of_an_unseen_patient_is_not_seen(head: Head) -> None:
    people = [
        dataclasses.replace(head, name=name, patient=f"sub-{name}") for name in ("1", "10", "2")
    ]
    kept = may_see([head, *people], ["sub-1_ses-2", "sub-3"])
    assert [one.name for one in kept] == ["ball", "10", "2"]
    assert [one.name for one in may_see(people, ["sub-10", "sub-2_ses-1", "sub-1"])] == []
    assert len(may_see([head, *people], [])) == 4
