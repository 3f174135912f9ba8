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


def test_magnify_keeps_values_at_voxel_centres() -> None:
    tile = np.array([[0.0, 10.0, 40.0]])
    assert canvas.magnify(tile, 9, 1)[0, [1, 4, 7]].tolist() == [0.0, 10.0, 40.0]
    assert canvas.magnify(np.array([[0, 1]]), 4, 1).tolist() == [[0.0, 0.25, 0.75, 1.0]]


def test_flow_centres_rows_of_one_height() -> None:
    places, size = canvas.flow([(10, 4), (10, 4), (10, 6)], limit=50)
    assert (size, places[2]) == ((26, 16), Place(left=8, top=10, width=10, height=6))


@given(arrays(bool, (7, 8)))
def test_outline_is_adjacent_to_mask_and_outside_it(mask: np.ndarray) -> None:
    line = canvas.outline(mask)
    assert not (line & mask).any()
    padded = np.pad(mask, 1)
    near = padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    assert (line == (near & ~mask)).all()


@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=12),
    st.integers(1, 200),
)
def test_flow_places_tiles_in_picture_without_overlap(
    sizes: list[tuple[int, int]], limit: int
) -> None:
    places, (width, height) = canvas.flow(sizes, limit)
    taken = np.zeros((height, width), int)
    for place, (across, down) in zip(places, sizes, strict=True):
        assert (place.width, place.height) == (across, down)
        taken[place.top : place.top + down, place.left : place.left + across] += 1
    assert taken.sum() == sum(w * h for w, h in sizes)
    assert taken.max() == 1


def test_write_letters_keeps_other_pixels_and_input() -> None:
    picture = np.full((40, 80, 3), 37, np.uint8)
    picture[30, 70] = (255, 140, 0)
    written = canvas.write_letters(picture, [Text(2, 2, "R")])
    assert (written[:20, :20] != 37).any()
    assert (written[:, 20:] == picture[:, 20:]).all()
    assert (picture[:20, :20] == 37).all()


def test_patch_is_a_view() -> None:
    picture = np.zeros((5, 6, 3), np.uint8)
    canvas.patch(picture, Place(2, 1, 3, 2))[...] = 9
    assert picture[1:3, 2:5].min() == 9
    assert picture.sum() == 9 * 18


@pytest.mark.parametrize(("colour", "mode"), [((80, 80, 80), "L"), ((255, 140, 0), "RGB")])
def test_encode_keeps_pixels_title_and_description(
    colour: tuple[int, int, int], mode: str
) -> None:
    picture = np.zeros((3, 4, 3), np.uint8)
    picture[1, 2] = colour
    png = canvas.encode(picture, title="Title ü", description="Left is right.")
    assert canvas.describe(png) == ("Title ü", "Left is right.", (4, 3))
    with Image.open(io.BytesIO(png)) as image:
        assert image.mode == mode
        assert (np.array(image.convert("RGB")) == picture).all()


def test_description_of_png_without_text_is_empty() -> None:
    stream = io.BytesIO()
    Image.new("L", (2, 2)).save(stream, "PNG")
    assert canvas.describe(stream.getvalue()) == ("", "", (2, 2))


def test_to_grey_is_monotonic_with_fixed_number_of_levels() -> None:
    ramp = canvas.to_grey(np.linspace(0, 1, 1001), 0, 1)
    assert ramp[0] == 0
    assert ramp[-1] == 254
    assert len(np.unique(ramp)) == canvas.GREY_LEVELS + 1
    assert (np.diff(ramp.astype(int)) >= 0).all()


def test_to_grey_of_constant_image_is_black() -> None:
    assert canvas.to_grey(np.ones(3), 1.0, 1.0).tolist() == [0, 0, 0]


def test_to_grey_clips_values_outside_range() -> None:
    grey = canvas.to_grey(np.array([-1.0, 0, 5, 10, 11]), 0, 10)
    assert grey.tolist() == [0, 0, 128, 254, 254]
