"""Slices and close-ups of two masks."""

from __future__ import annotations

import io

import numpy as np
import pytest
from comparison_figure import comparison_figure
from PIL import Image

from bids_msseg.errors import DataError
from bids_msseg.reports.evaluation.comparison import AXIAL, KINDS, PLANES, UNCOUNTED, Scene, Tile
from bids_msseg.reports.evaluation.data import AUTO, FALSE, FOUND, MANUAL, MISSED, TRUE
from bids_msseg.reports.images.outlines import svg_path

from .evaluations import FALSE_ONE, FOUND_PAIR, MISSED_ONE, make_case, two_cases

COUNTS = {"axial": 2, "coronal": 1, "sagittal": 1}


def kinds(tiles: list[Tile]) -> set[str]:
    return {line.kind for tile in tiles for line in tile.lines}


def test_slices_are_chosen_where_masks_differ() -> None:
    tiles = Scene(two_cases()[0]).slices(COUNTS)
    assert [tile.plane.name for tile in tiles] == ["axial", "axial", "coronal", "sagittal"]
    # the missed lesion lies on slices 12 and 13, the false one on 14 and 15, 2 mm each
    assert [tile.position for tile in tiles[:2]] == ["z +0 mm", "z +4 mm"]
    assert kinds(tiles) == {FOUND, TRUE, MISSED, FALSE}


def test_slices_of_equal_masks_show_found_lesion() -> None:
    tiles = Scene(two_cases()[1]).slices(COUNTS)
    assert len(tiles) == 4
    assert kinds(tiles) == {FOUND, TRUE}
    assert tiles[0].words == "1 found, 1 true"


def test_two_empty_masks_give_no_slices() -> None:
    assert Scene(make_case()).slices(COUNTS) == []


def test_plane_without_requested_slices_is_omitted() -> None:
    assert Scene(two_cases()[0]).slices({"axial": 1})[0].plane is AXIAL


def test_tile_is_radiological_and_outline_matches_lesion() -> None:
    # the grid runs to the left, so the highest x indices are the patient's left
    case = make_case(manual=[(26, 29, 22, 25, 12, 14)], outside=0)
    [tile] = Scene(case).slices({"axial": 1})
    [line] = tile.lines
    [border] = line.borders
    bright = tile.pixels[..., 0] > 250
    rows, columns = np.nonzero(bright)
    np.testing.assert_allclose(border.min(0), (columns.min(), rows.min()), atol=1)
    np.testing.assert_allclose(border.max(0), (columns.max() + 1, rows.max() + 1), atol=1)
    assert columns.mean() > tile.pixels.shape[1] / 2
    assert line.path == svg_path(line.borders)


def test_tile_corners_far_from_brain_are_black() -> None:
    # the image is four times as bright outside the ball of brain as in it
    for tile in Scene(two_cases()[0]).slices(COUNTS):
        height, width = tile.pixels.shape[:2]
        corners = tile.pixels[[0, 0, -1, -1], [0, -1, 0, -1]]
        assert not corners.any()
        assert max(width, height) <= 40


def test_tile_without_brain_mask_is_cropped_to_lesions() -> None:
    case = make_case(manual=[(2, 4, 2, 4, 10, 12)], brain=False)
    [tile] = Scene(case).slices({"axial": 1})
    assert tile.width <= 4 + 20
    assert tile.height <= 4 + 20


def test_tile_without_image_shows_only_outlines() -> None:
    [tile] = Scene(make_case(manual=[MISSED_ONE], image=False)).slices({"axial": 1})
    assert kinds([tile]) == {MISSED}
    assert len(np.unique(tile.pixels)) == 2


def test_lesion_below_min_volume_is_outlined_as_uncounted() -> None:
    case = make_case(manual=[FOUND_PAIR, (26, 27, 22, 23, 9, 10)])
    tiles = Scene(case).slices({"axial": 3})
    small = [line for tile in tiles for line in tile.lines if line.kind == UNCOUNTED]
    assert [line.index for line in small] == [0]


@pytest.mark.parametrize(("side", "index", "kind"), [(MANUAL, 2, MISSED), (AUTO, 2, FALSE)])
def test_close_up_is_centred_on_its_lesion(side: str, index: int, kind: str) -> None:
    tiles = Scene(two_cases()[0]).close_up(side, index)
    assert [tile.plane for tile in tiles] == list(PLANES)
    for tile in tiles:
        [line] = [line for line in tile.lines if line.kind == kind]
        assert (line.side, line.index) == (side, index)
        middle = np.concatenate(line.borders).mean(0) * tile.edges
        assert np.abs(middle - np.array([tile.width, tile.height]) / 2).max() < 4


def test_close_up_extends_beyond_image_grid() -> None:
    case = make_case(manual=[(0, 2, 0, 2, 0, 2)])
    sizes = {tile.pixels.shape for tile in Scene(case).close_up(MANUAL, 1)}
    assert sizes == {(27, 27, 3), (13, 27, 3)}


def test_close_up_of_unknown_lesion_raises_error() -> None:
    with pytest.raises(KeyError, match="sub-01 has no auto lesion 3"):
        Scene(two_cases()[0]).close_up(AUTO, 3)


def test_slices_of_fine_voxels_are_downsampled() -> None:
    case = two_cases()[0]
    fine = type(case)(**{name: getattr(case, name) for name in case.__slots__}
                      | {"affine": case.affine @ np.diag([0.25, 0.25, 1, 1])})  # fmt: skip
    coarse, small = (Scene(one).slices({"axial": 1})[0] for one in (case, fine))
    assert small.pixels.shape[1] <= coarse.pixels.shape[1] / 2
    assert kinds([small]) == kinds([coarse])


def test_every_outline_kind_has_description() -> None:
    assert set(KINDS) == {FOUND, TRUE, MISSED, FALSE, UNCOUNTED}


def test_comparison_figure_is_deterministic_and_has_outlines() -> None:
    case = two_cases()[0]
    first, second = comparison_figure(case, columns=2), comparison_figure(case, columns=2)
    assert first == second
    with Image.open(io.BytesIO(first)) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    for colour in ((86, 180, 233), (255, 122, 26), (247, 232, 74)):
        assert (abs(pixels - colour).max(-1) < 40).sum() > 20


def test_comparison_figure_without_lesions_is_refused() -> None:
    with pytest.raises(DataError, match="sub-01 has no lesion"):
        comparison_figure(make_case())


def test_outlines_keep_lesion_indices_of_both_masks() -> None:
    case = make_case(manual=[FOUND_PAIR, MISSED_ONE], auto=[FOUND_PAIR, FALSE_ONE])
    lines = {
        (line.side, line.index, line.kind)
        for tile in Scene(case).slices({"axial": 6})
        for line in tile.lines
    }
    assert lines == {(MANUAL, 1, FOUND), (MANUAL, 2, MISSED), (AUTO, 1, TRUE), (AUTO, 2, FALSE)}
