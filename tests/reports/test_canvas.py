from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from bids_msseg.reports.images import canvas
from bids_msseg.reports.images.canvas import Place, Text


def test_magnified_voxels_are_blocks_of_equal_size() -> None:
    tile = np.array([[1, 2], [3, 4]])
    big = canvas.magnify(tile, 6, 4, order=0)
    assert big.shape == (4, 6)
    assert (big == np.kron(tile, np.ones((2, 3)))).all()


def test_interpolation_meets_the_voxel_centres() -> None:
    tile = np.array([[0.0, 10.0, 40.0]])
    assert canvas.magnify(tile, 9, 1)[0, [1, 4, 7]].tolist() == [0.0, 10.0, 40.0]


@given(arrays(bool, (7, 8)))
def test_an_outline_touches_but_never_covers(mask: np.ndarray) -> None:
    line = canvas.outline(mask)
    assert not (line & mask).any()
    padded = np.pad(mask, 1)
    near = padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    assert (line == (near & ~mask)).all()


@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=12),
    st.integers(1, 200),
)
def test_tiles_lie_inside_and_apart(sizes: list[tuple[int, int]], limit: int) -> None:
    places, (width, height) = canvas.flow(sizes, limit)
    taken = np.zeros((height, width), int)
    for place, (across, down) in zip(places, sizes, strict=True):
        assert (place.width, place.height) == (across, down)
        taken[place.top : place.top + down, place.left : place.left + across] += 1
    assert taken.sum() == sum(w * h for w, h in sizes)
    assert taken.max() == 1


def test_letters_change_nothing_beside_them() -> None:
    picture = np.full((40, 80, 3), 37, np.uint8)
    picture[30, 70] = (255, 140, 0)
    written = canvas.write_letters(picture, [Text(2, 2, "R")])
    assert (written[:20, :20] != 37).any()
    assert (written[:, 20:] == picture[:, 20:]).all()
    assert (picture[:20, :20] == 37).all()


def test_a_patch_is_a_view() -> None:
    picture = np.zeros((5, 6, 3), np.uint8)
    canvas.patch(picture, Place(2, 1, 3, 2))[...] = 9
    assert picture[1:3, 2:5].min() == 9
    assert picture.sum() == 9 * 18


@pytest.mark.parametrize(("colour", "mode"), [((80, 80, 80), "L"), ((255, 140, 0), "RGB")])
def test_png_keeps_pixels_and_words(colour: tuple[int, int, int], mode: str) -> None:
    picture = np.zeros((3, 4, 3), np.uint8)
    picture[1, 2] = colour
    png = canvas.encode(picture, title="Title ü", description="Left is right.")
    assert canvas.describe(png) == ("Title ü", "Left is right.")
    with Image.open(io.BytesIO(png)) as image:
        assert image.mode == mode
        assert (np.array(image.convert("RGB")) == picture).all()


def test_png_without_words_is_described_by_nothing() -> None:
    stream = io.BytesIO()
    Image.new("L", (2, 2)).save(stream, "PNG")
    assert canvas.describe(stream.getvalue()) == ("", "")


def test_grey_runs_from_black_to_white_in_steps() -> None:
    ramp = canvas.to_grey(np.linspace(0, 1, 1001), 0, 1)
    assert ramp[0] == 0
    assert ramp[-1] == 254
    assert len(np.unique(ramp)) == canvas.GREY_LEVELS + 1
    assert (np.diff(ramp.astype(int)) >= 0).all()


def test_a_flat_image_is_black_not_nan() -> None:
    assert canvas.to_grey(np.ones(3), 1.0, 1.0).tolist() == [0, 0, 0]
