from __future__ import annotations

import io
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage as ndi

from bids_msseg.errors import DataError
from bids_msseg.imaging.volume import Volume
from bids_msseg.models.anatomy import Anatomy
from bids_msseg.reports.images import canvas, figures
from bids_msseg.reports.images.figures import (
    LESION,
    REJECTED,
    brain_mask_mosaic,
    lesion_mosaic,
    registration_mosaic,
)
from bids_msseg.reports.images.mosaic import Mosaic

THICK = np.diag([-0.9, -0.9, 7.0, 1.0])  # left, posterior, superior: as scanners store it
SHAPE = (100, 120, 14)


def positions(volume: Volume) -> np.ndarray:
    """Return the world position of every voxel, shape (3, X, Y, Z)."""
    index = np.indices(volume.shape).reshape(3, -1)
    world = volume.affine[:3, :3] @ index + volume.affine[:3, 3:]
    return world.reshape(3, *volume.shape)


def centred(shape: tuple[int, int, int], affine: np.ndarray) -> Volume:
    """Create an empty volume whose centre is the world origin."""
    moved = affine.copy()
    moved[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Volume(np.zeros(shape, np.float32), moved)


def ball(grid: Volume, centre: tuple[float, float, float], radius: float) -> Volume:
    away = positions(grid) - np.array(centre).reshape(3, 1, 1, 1)
    return grid.with_data((away**2).sum(0) <= radius**2)


@pytest.fixture(scope="module")
def head() -> tuple[Volume, Volume]:
    """A brain of 40 mm radius in thick slices; brighter to the patient's right and front."""
    grid = centred(SHAPE, THICK)
    brain = ball(grid, (0, 0, 0), 40)
    x, y, _ = positions(grid)
    noise = np.random.default_rng(0).normal(0, 2, SHAPE)
    return grid.with_data(brain.data * (100 + x + 0.5 * y + noise).astype(np.float32)), brain


def pixels(mosaic: Mosaic, frame: int = 0) -> np.ndarray:
    with Image.open(io.BytesIO(mosaic.frames[frame].png)) as image:
        return np.array(image.convert("RGB"))


def coloured(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (picture[: -canvas.FOOTER] == colour).all(-1)


def tile(picture: np.ndarray, mosaic: Mosaic, index: int) -> np.ndarray:
    return canvas.patch(picture, mosaic.places[index])


def empty_mask(grid: Volume) -> Volume:
    return grid.with_data(np.zeros(grid.shape, np.uint8))


def extent_mm(mask: np.ndarray, scale: float) -> tuple[float, float]:
    rows, columns = np.nonzero(mask)
    return (np.ptp(rows) + 1) * scale, (np.ptp(columns) + 1) * scale


def test_lesion_outline_has_true_size_in_thick_slices(head: tuple[Volume, Volume]) -> None:
    flair, brain = head
    lesion = ball(flair, (0, 0, 0), 21)
    mosaic = lesion_mosaic(flair, lesion, empty_mask(flair), brain, max_slices=3, scale=0.5)
    assert [cut.plane.name for cut in mosaic.cuts] == ["axial"] * 3 + ["coronal", "sagittal"]
    line = coloured(pixels(mosaic), LESION)
    for index, through in ((1, 0.9), (3, 7.0), (4, 7.0)):
        down, across = extent_mm(tile(line, mosaic, index), mosaic.scale)
        assert across == pytest.approx(42, abs=2)
        assert down == pytest.approx(42, abs=through + 1)


def test_lesion_mosaic_has_radiological_orientation(head: tuple[Volume, Volume]) -> None:
    flair, brain = head
    lesion = ball(flair, (20, 15, 10), 8)  # right, anterior, superior of the middle
    mosaic = lesion_mosaic(flair, lesion, empty_mask(flair), brain, max_slices=3)
    line = coloured(pixels(mosaic), LESION)
    shown = [index for index in range(5) if tile(line, mosaic, index).any()]
    assert {mosaic.cuts[index].plane.name for index in shown} == {"axial", "coronal", "sagittal"}
    for index in shown:
        part = tile(line, mosaic, index)
        rows, columns = np.nonzero(part)
        assert rows.mean() < part.shape[0] / 2
        assert columns.mean() < part.shape[1] / 2


def test_letters_mark_patient_sides(head: tuple[Volume, Volume]) -> None:
    flair, brain = head
    mosaic = lesion_mosaic(flair, empty_mask(flair), empty_mask(flair), brain, max_slices=3)
    picture = pixels(mosaic, frame=1)
    for place, cut in zip(mosaic.places, mosaic.cuts, strict=True):
        sides = {"sagittal": ("A", "P")}.get(cut.plane.name, ("R", "L"))
        blank = np.zeros_like(picture)
        texts = [
            canvas.Text(place.left + 2, place.top + 2, sides[0], "la"),
            canvas.Text(place.left + place.width - 2, place.top + 2, sides[1], "ra"),
        ]
        expected = canvas.write_letters(blank, texts)
        ink = expected > 0
        assert ink.sum() > 50
        assert (picture[ink] == expected[ink]).all()


def test_outlines_do_not_cover_lesion_voxels(head: tuple[Volume, Volume]) -> None:
    flair, brain = head
    lesion, refused = ball(flair, (20, 0, 0), 8), ball(flair, (-20, 0, 0), 8)
    mosaic = lesion_mosaic(flair, lesion, refused, brain, max_slices=3)
    marked, plain = pixels(mosaic, 0), pixels(mosaic, 1)
    assert marked.shape == plain.shape
    orange, blue = coloured(marked, LESION), coloured(marked, REJECTED)
    assert orange.any()
    assert blue.any()
    same = ~(orange | blue)
    assert (marked[: -canvas.FOOTER][same] == plain[: -canvas.FOOTER][same]).all()
    filled = ndi.binary_fill_holes(orange) & ~orange
    assert filled.sum() > 5 * orange.sum()


def test_axial_slice_shows_patient_right_on_left(head: tuple[Volume, Volume]) -> None:
    flair, brain = head
    lesion, refused = ball(flair, (20, 0, 0), 8), ball(flair, (-20, 0, 0), 8)
    mosaic = lesion_mosaic(flair, lesion, refused, brain, max_slices=3)
    axial = tile(pixels(mosaic), mosaic, 1)
    columns = [np.nonzero((axial == c).all(-1))[1].mean() for c in (LESION, REJECTED)]
    assert columns[0] < axial.shape[1] / 2 < columns[1]


def test_mosaics_hide_voxels_outside_brain_rim(head: tuple[Volume, Volume]) -> None:
    flair, brain = head
    away = ball(flair, (0, 0, 0), 40 + figures.WIDE_RIM_MM + 7.0)
    face = flair.with_data(np.where(away.data, flair.data, 9999).astype(np.float32))
    zero = empty_mask(flair)
    for bare, masked in (
        (lesion_mosaic(face, zero, zero, brain), lesion_mosaic(flair, zero, zero, brain)),
        (brain_mask_mosaic(face, brain), brain_mask_mosaic(flair, brain)),
        (
            registration_mosaic(flair, {"T1w": face}, brain),
            registration_mosaic(flair, {"T1w": flair}, brain),
        ),
    ):
        assert bare.frames == masked.frames


def test_lesion_mosaic_is_filled_with_slices_without_lesions(head: tuple[Volume, Volume]) -> None:
    flair, brain = head
    one = ball(flair, (0, 0, 10.5), 3)
    mosaic = lesion_mosaic(flair, one, empty_mask(flair), brain, max_slices=6)
    assert sum(cut.plane.name == "axial" for cut in mosaic.cuts) == 6
    assert "They show 1 of 1 lesions" in mosaic.description


def test_cut_index_refers_to_full_grid(head: tuple[Volume, Volume]) -> None:
    flair, brain = head
    one = ball(flair, (0, 0, 10.5), 3)
    mosaic = lesion_mosaic(flair, one, empty_mask(flair), brain, max_slices=1)
    slices = np.flatnonzero(one.data.any((0, 1)))
    assert mosaic.cuts[0].index in slices


def test_mosaic_without_lesions_states_it_in_description(head: tuple[Volume, Volume]) -> None:
    flair, brain = head
    mosaic = lesion_mosaic(flair, empty_mask(flair), empty_mask(flair), brain)
    assert "No lesion was found; the slices are evenly spaced." in mosaic.description
    assert not coloured(pixels(mosaic), LESION).any()
    assert canvas.describe(mosaic.frames[0].png)[1] == mosaic.description


def test_mosaic_without_kept_lesions_shows_rejected_candidates(
    head: tuple[Volume, Volume],
) -> None:
    flair, brain = head
    refused = ball(flair, (-20, 0, 0), 8)
    mosaic = lesion_mosaic(flair, empty_mask(flair), refused, brain)
    assert "No lesion was kept." in mosaic.description
    assert coloured(pixels(mosaic), REJECTED).any()


def test_brain_outline_has_size_of_brain_mask(head: tuple[Volume, Volume]) -> None:
    flair, brain = head
    mosaic = brain_mask_mosaic(flair, brain, max_slices=3)
    green = coloured(pixels(mosaic), figures.BRAIN)
    down, across = extent_mm(tile(green, mosaic, 1), mosaic.scale)
    assert across == pytest.approx(80, abs=3)
    assert down == pytest.approx(80, abs=3)


def test_anatomy_frame_outlines_labels_with_true_size(head: tuple[Volume, Volume]) -> None:
    flair, brain = head
    inner = ball(flair, (0, 0, 0), 15)
    labels = np.where(inner.data, Anatomy.VENTRICLE, Anatomy.WHITE_MATTER * brain.data)
    anatomy = flair.with_data(labels.astype(np.uint8))
    mosaic = brain_mask_mosaic(flair, brain, anatomy, max_slices=3)
    assert [frame.key for frame in mosaic.frames] == ["brain", "brainAnatomy", "brainPlain"]
    colours = {name: colour for _, colour, name in figures.ANATOMY}
    for name, diameter in (("ventricles", 30), ("white matter", 80)):
        line = coloured(pixels(mosaic, 1), colours[name])
        down, across = extent_mm(tile(line, mosaic, 1), mosaic.scale)
        assert across == pytest.approx(diameter, abs=3)
        assert down == pytest.approx(diameter, abs=3)
    assert not coloured(pixels(mosaic, 1), colours["brainstem"]).any()


def test_registration_frames_show_the_same_flair_edges(head: tuple[Volume, Volume]) -> None:
    flair, brain = head
    inner = ball(flair, (5, 5, 0), 15)
    shaped = flair.with_data(flair.data + 60 * inner.data)
    shifted = flair.with_data(np.roll(shaped.data, 12, axis=0))
    mosaic = registration_mosaic(shaped, {"T1w": shifted, "MNI152-x": shaped}, brain)
    keys = [frame.key.removeprefix("registration") for frame in mosaic.frames]
    assert keys == ["T1w", "MNI152x", "FLAIR"]
    edges = [coloured(pixels(mosaic, frame), figures.EDGE) for frame in range(3)]
    assert edges[0].sum() > 500
    assert (edges[0] == edges[2]).all()
    assert (pixels(mosaic, 0) != pixels(mosaic, 2)).any()


@pytest.mark.parametrize("doubtful", [(), ("T1w",), ("T2w", "MNI152-x"), ("T1w", "T2w")])
def test_doubtful_registration_is_marked_in_frame_title(
    head: tuple[Volume, Volume], doubtful: tuple[str, ...]
) -> None:
    flair, brain = head
    moving = dict.fromkeys(("T1w", "T2w", "MNI152-x"), flair)
    mosaic = registration_mosaic(flair, moving, brain, doubtful=doubtful)
    titles = dict(zip((*moving, "FLAIR"), (frame.title for frame in mosaic.frames), strict=True))
    assert [name for name, title in titles.items() if "not aligned" in title] == list(doubtful)


def test_lesion_mosaic_is_deterministic_across_processes() -> None:
    program = (
        "import hashlib, numpy as np\n"
        "from bids_msseg.imaging.volume import Volume\n"
        "from bids_msseg.reports.images.figures import lesion_mosaic\n"
        "data = np.random.default_rng(1).random((30, 32, 12)).astype('f4')\n"
        "grid = Volume(data, np.diag([1., 1., 3., 1.]))\n"
        "brain = grid.with_data(np.ones(data.shape, bool))\n"
        "lesion = grid.with_data(data > 0.995)\n"
        "frames = lesion_mosaic(grid, lesion, lesion, brain).frames\n"
        "print(*(hashlib.sha256(frame.png).hexdigest() for frame in frames))\n"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(runs) == 1
    assert len(runs.pop().split()) == 2


def test_empty_brain_mask_raises_error_with_hint(head: tuple[Volume, Volume]) -> None:
    flair, _ = head
    with pytest.raises(DataError, match="hint:"):
        brain_mask_mosaic(flair, empty_mask(flair))


def test_image_on_another_grid_is_refused(head: tuple[Volume, Volume]) -> None:
    flair, brain = head
    smaller = Volume(brain.data[1:], brain.affine)
    elsewhere = Volume(brain.data, brain.affine @ np.diag([1, 1, 1.1, 1]))
    for other in (smaller, elsewhere):
        with pytest.raises(DataError, match="cannot be drawn"):
            registration_mosaic(flair, {"T1w": other}, brain)


def test_brain_mask_mosaic_accepts_nan_voxels(head: tuple[Volume, Volume]) -> None:
    flair, brain = head
    data = flair.data.copy()
    data[50, 60, 7] = np.nan
    mosaic = brain_mask_mosaic(flair.with_data(data), brain)
    assert pixels(mosaic).any()
