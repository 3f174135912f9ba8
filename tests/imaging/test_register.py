"""Known transforms are recovered, with the same bytes for any number of threads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bids_msseg.errors import DataError, NoInputError
from bids_msseg.imaging.brain import extract_brain, mask_from_stripped
from bids_msseg.imaging.conform import canonical
from bids_msseg.imaging.registration import pyramid
from bids_msseg.imaging.registration.affine import mask_overlap, register_affine, register_rigid
from bids_msseg.imaging.registration.itk import read_itk_affine, to_itk, write_itk_affine
from bids_msseg.imaging.resample import resample
from bids_msseg.imaging.template import load_template
from bids_msseg.imaging.volume import Affine, Volume, load_volume

from .conftest import head, rigid

Head = tuple[Volume, NDArray[np.bool_]]
THICK = (2.0, 2.0, 4.0)


def distance(
    one: Affine, other: Affine, volume: Volume, mask: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Distances in mm between the points of a mask mapped by two affines."""
    index = np.argwhere(mask)[::50].astype(float)
    points = index @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    gap = one - other
    return np.linalg.norm(points @ gap[:3, :3].T + gap[:3, 3], axis=1)


@pytest.fixture(scope="module")
def flair() -> Head:
    return head("FLAIR", THICK)


@pytest.mark.parametrize(
    ("degrees", "shift"),
    [((0, 0, 0), (0, 0, 0)), ((4, -3, 5), (3, -5, 6)), ((6, 4, -5), (70, -90, 40))],
    ids=["in place", "a few millimetres", "another frame of reference"],
)
def test_rigid_registration_recovers_known_transform(
    flair: Head, degrees: tuple[float, float, float], shift: tuple[float, float, float]
) -> None:
    fixed, brain = flair
    truth = rigid(degrees, shift)
    moving, _ = head("T1w", (2.5, 2.5, 2.5))
    # the same voxels, with a header that puts the head elsewhere
    moving = Volume(moving.data, truth @ moving.affine)
    found = register_rigid(moving, fixed, fixed_mask=brain)
    assert distance(found.affine, truth, fixed, brain).mean() < 0.35
    assert found.metric_after >= found.metric_before
    assert bool(found.notes) == np.array_equal(found.affine, np.eye(4))


def test_rigid_registration_recovers_motion_in_field_of_view(flair: Head) -> None:
    fixed, brain = flair
    moved = rigid((-5, 2, 3), (4, 6, -7))
    moving, moving_brain = head("T2w", (1.5, 1.5, 5), transform=moved)
    found = register_rigid(moving, fixed, fixed_mask=brain, moving_mask=moving_brain)
    assert distance(found.affine, np.linalg.inv(moved), fixed, brain).mean() < 0.7


def test_rigid_registration_works_without_masks() -> None:
    fixed, brain = head("FLAIR", (3, 3, 3), stripped=True)
    moved = rigid((3, 0, 2), (2, -4, 3))
    moving, _ = head("T1w", (3, 3, 3), transform=moved, stripped=True)
    found = register_rigid(moving, fixed)
    assert distance(found.affine, np.linalg.inv(moved), fixed, brain).mean() < 0.7


@pytest.mark.parametrize("seed", [0, -1, 2**32 - 1, 10**12])
def test_any_integer_seed_is_accepted(seed: int) -> None:
    fixed, brain = head("FLAIR", (9, 9, 9))
    found = register_rigid(head("T1w", (9, 9, 9))[0], fixed, fixed_mask=brain, seed=seed)
    assert distance(found.affine, np.eye(4), fixed, brain).mean() < 3


def test_header_alignment_is_kept_if_search_is_worse(
    flair: Head, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed, brain = flair
    astray = rigid((0, 0, 0), (15, 0, 0))
    monkeypatch.setattr(pyramid, "search", lambda *_, **__: astray)
    found = register_rigid(head("T1w", (3, 3, 3))[0], fixed, fixed_mask=brain)
    np.testing.assert_array_equal(found.affine, np.eye(4))
    assert found.metric_after == found.metric_before
    assert found.notes == (
        "registration did not improve on the headers' alignment, which is kept",
    )


def test_failed_search_returns_its_start(flair: Head) -> None:
    fixed, brain = flair
    level = pyramid.build_level(fixed, fixed, brain, 4.0, None)
    start = rigid((0, 0, 0), (5000, 0, 0))
    found = pyramid.search(level, "rigid", start, np.zeros(3), 0)
    np.testing.assert_array_equal(found, start)


@pytest.mark.slow
def test_same_bytes_on_any_number_of_threads() -> None:
    fixed, brain = head("FLAIR", (6, 6, 6))
    moving, moving_brain = head("T1w", (6, 6, 6), transform=rigid((3, 1, 2), (9, 2, 1)))
    masks = {"fixed_mask": brain, "moving_mask": moving_brain}
    for function in (register_rigid, register_affine):
        runs = []
        for threads in (1, 2, 1):
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
            runs.append(function(moving, fixed, **masks, threads=threads).affine.tobytes())
        assert len(set(runs)) == 1
        other = function(moving, fixed, **masks, seed=1).affine
        assert other.tobytes() != runs[0]
        assert distance(other, np.frombuffer(runs[0]).reshape(4, 4), fixed, brain).mean() < 1.5


@pytest.mark.parametrize("contrast", ["FLAIR", "T1w"])
def test_affine_registration_recovers_scale_and_pitch(contrast: str) -> None:
    fixed, fixed_brain = head("T1w", (2.5, 2.5, 2.5), stripped=True)
    truth = rigid((17, -4, 3), (6, -25, 20)) @ np.diag([0.88, 0.8, 0.92, 1.0])
    moving, moving_brain = head(contrast, (2.5, 2.5, 4))
    moving = Volume(moving.data, truth @ moving.affine)
    found = register_affine(moving, fixed, moving_mask=moving_brain, fixed_mask=fixed_brain)
    assert distance(found.affine, truth, fixed, fixed_brain).mean() < 1.0
    overlap = mask_overlap(
        moving.with_data(moving_brain), fixed.with_data(fixed_brain), found.affine
    )
    assert overlap > 0.97
    assert found.metric_after > found.metric_before
    assert found.notes == ()


def test_implausible_affine_is_replaced_by_similarity(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed, brain = head("T1w", (5, 5, 5), stripped=True)
    search = pyramid.search

    def squash(level: object, kind: str, *rest: object, **more: float) -> Affine:
        if kind == "affine":
            return np.diag([0.2, 1.0, 1.0, 1.0])
        return search(level, kind, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(pyramid, "search", squash)
    found = register_affine(fixed, fixed, moving_mask=brain, fixed_mask=brain)
    np.testing.assert_allclose(found.affine, np.eye(4), atol=0.02)
    assert "implausible" in found.notes[0]


def test_poor_overlap_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed, brain = head("T1w", (5, 5, 5), stripped=True)
    astray = rigid((0, 0, 0), (60, 0, 0))
    monkeypatch.setattr(pyramid, "search", lambda *_, **__: astray)
    found = register_affine(fixed, fixed, moving_mask=brain, fixed_mask=brain)
    assert "Dice" in found.notes[0]


@pytest.mark.parametrize("function", [register_rigid, register_affine])
def test_empty_mask_is_a_user_error(function: object) -> None:
    volume = Volume(np.ones((9, 9, 9), np.float32), np.eye(4))
    with pytest.raises(DataError, match="mask is empty"):
        function(volume, volume, fixed_mask=np.zeros((9, 9, 9), bool))  # type: ignore[operator]


def test_information_is_highest_when_aligned_and_low_for_noise() -> None:
    fixed, brain = head("FLAIR", (6, 6, 6))
    moving, _ = head("T1w", (6, 6, 6))
    level = pyramid.build_level(moving, fixed, brain, 6.0, None)
    here = pyramid.information(level, np.eye(4))
    off = [pyramid.information(level, rigid((0, 0, 0), (x, 0, 0))) for x in (-9.0, -3.0, 3.0, 9.0)]
    assert here > max(off)
    assert off[1] > off[0]
    assert off[2] > off[3]
    mixed = np.random.default_rng(0).permutation(level.moving.data.ravel())
    noise = level.moving.with_data(mixed.reshape(level.moving.shape))
    blind = pyramid.Level(6.0, level.fixed, level.inside, noise)
    assert pyramid.information(blind, np.eye(4)) < here / 3


def test_mask_overlap() -> None:
    data = np.zeros((10, 10, 10), bool)
    data[2:6, 2:6, 2:6] = True
    volume = Volume(data, np.eye(4))
    assert mask_overlap(volume, volume, np.eye(4)) == 1.0
    assert mask_overlap(volume, volume, rigid((0, 0, 0), (2, 0, 0))) == 0.5
    assert mask_overlap(volume, volume, rigid((0, 0, 0), (50, 0, 0))) == 0.0
    nothing = volume.with_data(np.zeros_like(data))
    assert mask_overlap(nothing, nothing, np.eye(4)) == 0.0


numbers = st.floats(-1e3, 1e3, allow_nan=False)


@settings(max_examples=50, deadline=None)
@given(st.lists(numbers, min_size=12, max_size=12))
def test_itk_affine_round_trip_preserves_values(
    tmp_path_factory: pytest.TempPathFactory, values: list[float]
) -> None:
    affine = np.eye(4)
    affine[:3] = np.array(values).reshape(3, 4)
    path = tmp_path_factory.mktemp("itk") / "from-FLAIR_to-T1w_mode-image_xfm.txt"
    write_itk_affine(affine, path)
    if abs(np.linalg.det(affine[:3, :3])) < 1e-3:
        return  # ITK may refuse to read what cannot be inverted
    np.testing.assert_allclose(read_itk_affine(path), affine, rtol=1e-9, atol=1e-9)


def test_itk_and_own_resampling_agree(tmp_path: Path) -> None:
    moving, _ = head("T1w", (3, 3, 5), transform=rigid((0, 0, 9), (0, 0, 0)))
    moving = Volume(moving.data, rigid((4, -9, 6), (5, 7, -9)) @ moving.affine)
    fixed, brain = head("FLAIR", (4, 4, 4))
    affine = rigid((9, -5, 12), (11, -7, 4)) @ np.diag([0.9, 1.1, 0.95, 1])
    path = tmp_path / "xfm.txt"
    write_itk_affine(affine, path)
    theirs = sitk.Resample(
        to_itk(moving), to_itk(fixed), sitk.ReadTransform(str(path)), sitk.sitkLinear, 0.0
    )
    ours = resample(moving, fixed.shape, fixed.affine, transform=affine)
    inside = np.s_[4:-4, 4:-4, 4:-4]
    np.testing.assert_allclose(
        sitk.GetArrayFromImage(theirs).T[inside], ours.data[inside], atol=0.05
    )
    assert ours.data[brain].mean() > 100


def test_itk_euler_transform_is_read_as_affine(tmp_path: Path) -> None:
    theirs = sitk.Euler3DTransform((10, -20, 30), 0.1, 0.2, -0.3, (5, 6, 7))
    path = tmp_path / "euler.tfm"
    sitk.WriteTransform(theirs, str(path))
    affine = read_itk_affine(path)
    point = np.array([12.0, -34.0, 56.0])
    flip = np.array([-1.0, -1.0, 1.0])
    expected = flip * np.array(theirs.TransformPoint(tuple(flip * point)))
    np.testing.assert_allclose(affine[:3, :3] @ point + affine[:3, 3], expected, atol=1e-9)


def test_unusable_transform_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NoInputError):
        read_itk_affine(tmp_path / "none.txt")
    garbage = tmp_path / "garbage.txt"
    garbage.write_text("not a transform")
    flat = tmp_path / "flat.tfm"
    sitk.WriteTransform(sitk.AffineTransform(2), str(flat))
    bent = tmp_path / "bent.tfm"
    sitk.WriteTransform(sitk.BSplineTransform(3), str(bent))
    for path in (garbage, flat, bent):
        with pytest.raises(DataError, match="linear 3-D"):
            read_itk_affine(path)


def test_to_itk_preserves_position_and_values() -> None:
    affine = rigid((10, 20, 30), (4, 5, 6)) @ np.diag([1.0, 2.0, 3.0, 1.0])
    volume = Volume(np.random.default_rng(0).random((4, 5, 6)).astype(np.float32), affine)
    image = to_itk(volume)
    lps = np.array(image.TransformIndexToPhysicalPoint((3, 2, 5)))
    np.testing.assert_allclose(lps * [-1, -1, 1], (affine @ [3, 2, 5, 1])[:3], atol=1e-9)
    assert image.GetPixel(3, 2, 5) == volume.data[3, 2, 5]


@pytest.mark.realdata
@pytest.mark.slow
def test_offset_of_six_mm_is_found_in_real_t1w(shared_data: Path) -> None:
    folder = shared_data / "raw-heads" / "sub-03" / "ses-2" / "anat"
    fixed, moving = (
        canonical(load_volume(folder / f"sub-03_ses-2_{contrast}.nii.gz"))
        for contrast in ("FLAIR", "T1w")
    )
    brain = extract_brain(fixed)
    found = register_rigid(moving, fixed, fixed_mask=brain)
    assert found.metric_after > 2 * found.metric_before
    moved = distance(found.affine, np.eye(4), fixed, brain)
    assert 5 < moved.mean() < 7


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.parametrize("name", ["lj07", "tz10"])
def test_real_flair_overlaps_the_template(shared_data: Path, name: str) -> None:
    path = shared_data / "ms-cohort" / f"sub-{name}" / "anat" / f"sub-{name}_FLAIR.nii.gz"
    volume = canonical(load_volume(path))
    mask = mask_from_stripped(volume)
    template = load_template()
    found = register_affine(
        volume, template.volume, moving_mask=mask, fixed_mask=template.mask, threads=2
    )
    target = template.volume.with_data(template.mask)
    assert mask_overlap(volume.with_data(mask), target, found.affine) > 0.93
    assert found.notes == ()
