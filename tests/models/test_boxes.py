from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bids_msseg.lesions.instances import label_lesions
from bids_msseg.models.boxes import cut, split_into_pieces


@given(
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    size=st.tuples(*[st.integers(1, 7)] * 3),
    centre=st.tuples(*[st.integers(-12, 16)] * 3),
    fill=st.sampled_from([0.0, -3.0]),
)
def test_cut_is_padding_and_slicing(
    shape: tuple[int, int, int],
    size: tuple[int, int, int],
    centre: tuple[int, int, int],
    fill: float,
) -> None:
    volume = np.arange(2 * np.prod(shape), dtype=np.float32).reshape(2, *shape)
    around = 30
    padded = np.pad(volume, [(0, 0)] + [(around, around)] * 3, constant_values=fill)
    box = tuple(
        slice(around + at - edge // 2, around + at - edge // 2 + edge)
        for at, edge in zip(centre, size, strict=True)
    )
    np.testing.assert_array_equal(cut(volume, centre, size, fill=fill), padded[:, *box])


def test_cut_keeps_the_type_and_copies() -> None:
    volume = np.ones((4, 4, 4), bool)
    piece = cut(volume, (2, 2, 2), (2, 2, 2))
    assert piece.dtype == bool
    piece[:] = False
    assert volume.all()


masks = arrays(bool, st.tuples(*[st.integers(1, 14)] * 3), elements=st.booleans())


@settings(max_examples=60)
@given(mask=masks, edge=st.integers(1, 6))
def test_pieces_partition_components_and_fit_their_boxes(mask: np.ndarray, edge: int) -> None:
    labels = label_lesions(mask, voxel_volume=1.0)
    pieces, boxes = split_into_pieces(labels, edge=edge)
    np.testing.assert_array_equal(pieces > 0, labels > 0)
    assert set(np.unique(pieces[pieces > 0])) == set(range(1, len(boxes) + 1))
    for number, box in enumerate(boxes, start=1):
        member = pieces == number
        assert len(np.unique(labels[member])) == 1
        assert all(side.stop - side.start <= edge for side in box)
        found = np.argwhere(member)
        assert found.min(0).tolist() == [side.start for side in box]
        assert (found.max(0) + 1).tolist() == [side.stop for side in box]


def test_a_component_that_fits_is_left_whole() -> None:
    labels = np.zeros((30, 30, 30), np.int32)
    labels[3:27, 4:28, 0:24] = 1
    pieces, boxes = split_into_pieces(labels, edge=24)
    np.testing.assert_array_equal(pieces, labels)
    assert boxes == ((slice(3, 27), slice(4, 28), slice(0, 24)),)


@pytest.mark.parametrize("width", range(25, 130, 7))
def test_pieces_of_a_wide_component_are_nearly_equal(width: int) -> None:
    pieces, boxes = split_into_pieces(np.ones((width, 1, 1), np.int32), edge=24)
    widths = [box[0].stop - box[0].start for box in boxes]
    assert len(widths) == -(-width // 24)
    assert max(widths) - min(widths) <= 1
    assert sum(widths) == width == np.count_nonzero(pieces)
