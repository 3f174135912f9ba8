from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bids_msseg.cascade.patches import (
    LabelledVisit,
    Places,
    cut,
    draw_centre,
    find_places,
    split_into_pieces,
    stream,
)
from bids_msseg.lesions.instances import label_lesions


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


def _visit(truth: np.ndarray) -> LabelledVisit:
    return LabelledVisit(
        "sub-01",
        "X",
        np.zeros((3, *truth.shape), np.float16),
        (True, True, True),
        np.ones(truth.shape, bool),
        truth.astype(np.float16),
        thick=False,
    )


def test_places_list_each_lesion_once() -> None:
    truth = np.zeros((6, 5, 4))
    truth[0, 0, 0] = 1
    truth[3:5, 2, 1:3] = 0.6
    truth[0, 4, 3] = 0.4
    hard = np.zeros(truth.shape, bool)
    hard[5, 4, 3] = True
    places = find_places(_visit(truth), hard)
    assert [len(lesion) for lesion in places.lesions] == [4, 1]
    joined = np.sort(np.concatenate(places.lesions))
    np.testing.assert_array_equal(joined, np.flatnonzero(truth >= 0.5))
    assert places.hard.tolist() == [truth.size - 1]
    assert places.brain.size == truth.size


def test_places_of_a_visit_without_lesions() -> None:
    places = find_places(_visit(np.zeros((3, 3, 3))))
    assert places.lesions == ()
    assert places.hard.size == 0


SHAPE = (10, 10, 10)
PLACES = Places((np.arange(100, 300), np.array([7])), np.arange(500, 1000), np.array([400, 401]))


def _draws(count: int, **shares: float) -> Counter[str]:
    counter: Counter[str] = Counter()
    rng = np.random.default_rng(0)
    for _ in range(count):
        at = int(np.ravel_multi_index(draw_centre(PLACES, SHAPE, rng, **shares), SHAPE))
        kind = "small" if at == 7 else "large" if at < 300 else "hard" if at < 402 else "brain"
        counter[kind] += 1
    return counter


def test_shares_are_honoured_and_lesions_drawn_uniformly() -> None:
    seen = _draws(8000, lesion_share=0.5, hard_share=0.2)
    # five standard deviations
    for kind, expected in (("small", 0.25), ("large", 0.25), ("hard", 0.2), ("brain", 0.3)):
        assert abs(seen[kind] / 8000 - expected) < 0.025, kind


def test_shares_of_zero_and_one() -> None:
    assert set(_draws(200, lesion_share=0.0, hard_share=0.0)) == {"brain"}
    assert set(_draws(200, lesion_share=1.0, hard_share=0.0)) == {"small", "large"}
    assert set(_draws(200, lesion_share=0.0, hard_share=1.0)) == {"hard"}


def test_without_lesions_the_brain_is_drawn() -> None:
    bare = Places((), np.array([13]), np.zeros(0, np.int64))
    rng = np.random.default_rng(0)
    drawn = {draw_centre(bare, SHAPE, rng, lesion_share=0.6, hard_share=0.4) for _ in range(30)}
    assert drawn == {(0, 1, 3)}


def test_streams_depend_on_seed_and_index_alone() -> None:
    values = {
        (seed, index): tuple(stream(seed, index).integers(2**62, size=2))
        for seed, index in product(range(6), range(6))
    }
    assert len(set(values.values())) == len(values)
    np.random.seed(1)
    assert tuple(stream(3, 4).integers(2**62, size=2)) == values[3, 4]
