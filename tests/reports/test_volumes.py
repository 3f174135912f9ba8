from __future__ import annotations

import base64
import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_msseg.bids.derivatives import OUTPUTS, preprocessed
from bids_msseg.bids.visit import Visit
from bids_msseg.imaging.cut import cut_affine, find_drawn_cut, spread
from bids_msseg.imaging.volume import Volume
from bids_msseg.reports.images import volumes
from bids_msseg.reports.images.volumes import (
    Layer,
    joining,
    make_scene,
    points_inside,
    read_scene,
)

OBLIQUE = np.array([[-0.9, 0.1, 0, 40], [0.1, 0.9, 0, -30], [0, 0, 3, 7], [0, 0, 0, 1.0]])


def decode(layer: Layer) -> Volume:
    image = nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(layer.base64)))
    return Volume(np.asarray(image.dataobj), image.affine)


def scene_of(size: int = 12) -> tuple[Volume, dict[str, Volume]]:
    brain = np.zeros((20, 22, size + 4), np.uint8)
    brain[4:14, 5:17, 2 : 2 + size] = 1
    flair = np.random.default_rng(1).normal(100, 20, brain.shape)
    lesions = np.zeros(brain.shape, np.int32)
    lesions[6:9, 7:9, 4] = 1
    lesions[12, 12, 8] = 300
    probability = np.where(lesions > 0, 0.8, 0.02)
    images = {"FLAIR": flair, "lesions": lesions, "probability": probability}
    whole = Volume(brain, OBLIQUE)
    return whole, {name: whole.with_data(data) for name, data in images.items()}


def test_make_scene_crops_and_masks_images_to_brain() -> None:
    brain, images = scene_of()
    flair = decode(make_scene(brain, images).layers[0])
    assert flair.shape == (12, 14, 14)  # the brain and one voxel around it
    assert flair.data.dtype == np.uint8
    assert (flair.data > 0).sum() == (brain.data > 0).sum()
    assert flair.data.max() == 127


def test_make_scene_keeps_world_coordinates() -> None:
    brain, images = scene_of()
    scene = make_scene(brain, images)
    numbers = decode(next(one for one in scene.layers if one.name == "lesions"))
    assert numbers.data.dtype == np.int16  # 300 lesions do not fit into a byte
    for number in (1, 300):
        for cut, whole in ((numbers, images["lesions"]),):
            here = np.argwhere(cut.data == number) @ cut.affine[:3, :3].T + cut.affine[:3, 3]
            there = np.argwhere(whole.data == number) @ OBLIQUE[:3, :3].T + OBLIQUE[:3, 3]
            assert np.allclose(here, there, atol=1e-3)
    assert scene.points["kept", 300] == pytest.approx(tuple((OBLIQUE @ (12, 12, 8, 1))[:3]))


def test_probabilities_below_5_percent_are_zeroed() -> None:
    brain, images = scene_of()
    assert set(np.unique(decode(make_scene(brain, images).layers[2]).data)) == {0, 80}


def test_merging_small_voxels_keeps_all_lesions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volumes, "MAX_VOXELS", 200)
    brain, images = scene_of()
    scene = make_scene(brain, images)
    assert scene.joined
    numbers = decode(scene.layers[1])
    assert set(np.unique(numbers.data)) == {0, 1, 300}
    where = np.argwhere(numbers.data == 300) @ numbers.affine[:3, :3].T + numbers.affine[:3, 3]
    assert np.linalg.norm(where - scene.points["kept", 300], axis=1).max() < 3


@given(
    st.integers(1, 10**9),
    st.tuples(*[st.floats(0.2, 5)] * 3),
    st.tuples(*[st.integers(1, 900)] * 3),
)
def test_joining_respects_voxel_limit_unless_axis_is_exhausted(
    voxels: int, spacing: tuple[float, float, float], shape: tuple[int, int, int]
) -> None:
    factors = joining(shape, voxels, np.array(spacing))
    assert all(factor & (factor - 1) == 0 for factor in factors)
    limit = volumes.MAX_VOXELS * np.prod(factors)
    assert voxels <= limit or any(f >= s for f, s in zip(factors, shape, strict=True))


def test_joining_merges_voxels_of_large_images_only() -> None:
    assert joining((180, 200, 170), 1_400_000, np.array([1.0, 1.0, 1.0])) == (1, 1, 1)
    assert joining((300, 400, 340), 11_000_000, np.array([0.6, 0.5, 0.5])) == (2, 2, 2)


@given(st.tuples(*[st.integers(0, 30)] * 3), st.sampled_from([1, 2, 4]))
def test_cut_affine_centres_merged_voxel_on_its_parts(
    start: tuple[int, int, int], by: int
) -> None:
    joined = cut_affine(OBLIQUE, list(start), (by, 1, 1))
    parts = [OBLIQUE @ (start[0] + i, start[1], start[2], 1) for i in range(by)]
    assert np.allclose(joined @ (0, 0, 0, 1), np.mean(parts, axis=0))


@pytest.mark.parametrize("most", [10**9, 200])
def test_viewer_drawing_is_mapped_back_to_full_grid(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, most: int
) -> None:
    monkeypatch.setattr(volumes, "MAX_VOXELS", most)
    brain, images = scene_of()
    scene = make_scene(brain, images)
    drawing = next(one for one in scene.layers if one.name == "lesions")
    path = tmp_path / "m.nii.gz"
    path.write_bytes(base64.b64decode(drawing.base64))
    cut = find_drawn_cut(path, brain.shape, brain.affine)
    assert cut is not None
    assert scene.joined == (max(cut.factors) > 1) == (most == 200)
    mask, lesions = spread(decode(drawing).data > 0, cut, brain.shape), images["lesions"].data > 0
    assert mask[lesions].all()
    assert mask.sum() <= lesions.sum() * np.prod(cut.factors)


def test_lesion_point_of_ring_is_first_of_its_nearest_voxels() -> None:
    ring = np.ones((3, 3, 1), np.int32)
    ring[1, 1] = 0
    assert points_inside(Volume(ring, np.eye(4))) == {1: (0.0, 1.0, 0.0)}


def test_lesion_point_lies_inside_concave_lesion() -> None:
    labels = np.zeros((9, 9, 3), np.int32)
    labels[1:8, 1, 1] = labels[1:8, 7, 1] = labels[1, 1:8, 1] = 5
    (point,) = points_inside(Volume(labels, OBLIQUE)).values()
    voxel = np.rint(np.linalg.inv(OBLIQUE) @ (*point, 1)).astype(int)
    assert labels[tuple(voxel[:3])] == 5


def test_broken_t1w_is_skipped_and_broken_brain_empties_scene(out_dir: Path) -> None:
    visit = Visit("01", "1", Path())
    assert len(read_scene(out_dir, visit).layers) == 5
    assert read_scene(out_dir, Visit("01", "2", Path())).layers == ()
    t1w = preprocessed("T1w").path(out_dir, visit, ".nii.gz")
    t1w.write_bytes(t1w.read_bytes()[:900])
    assert [one.name for one in read_scene(out_dir, visit).layers][:2] == ["FLAIR", "lesions"]
    brain = OUTPUTS["brain"].path(out_dir, visit, ".nii.gz")
    brain.write_bytes(b"no image")
    assert read_scene(out_dir, visit).layers == ()


def test_read_scene_is_deterministic(out_dir: Path) -> None:
    visit = Visit("01", "1", Path())
    assert read_scene(out_dir, visit) == read_scene(out_dir, visit)
