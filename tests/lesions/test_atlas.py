"""Each region gets its part of each lesion, and each lesion counts in one region."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from bids_msseg.lesions.atlas import REGION_COLUMNS, RegionLoad, load_per_region

LABELS = hnp.arrays(np.int32, (4, 3, 3), elements=st.sampled_from([0, 2, 5, 1035]))
LESIONS = hnp.arrays(np.int32, (4, 3, 3), elements=st.integers(0, 4))
NAMES = {2: "left", 5: "right", 1035: "insula"}
ML = 1000.0
"""With voxels of 1 mL, a volume in mL equals the number of voxels."""


def line(codes: str) -> NDArray[np.int32]:
    return np.array([int(code) for code in codes], np.int32).reshape(-1, 1, 1)


def by_label(rows: tuple[RegionLoad, ...]) -> dict[int, RegionLoad]:
    return {row.label: row for row in rows}


class TestLoadPerRegion:
    def test_all_fields_of_small_example(self) -> None:
        rows = load_per_region(line("1110002"), line("2255550"), 500.0, {2: "left", 5: "right"})
        assert rows[:2] == (
            RegionLoad(2, "left", 1.0, 1.0, 1, 1.0),
            RegionLoad(5, "right", 2.0, 0.5, 0, 0.25),
        )
        last = rows[2]
        assert (last.label, last.name, last.lesion_ml, last.lesion_count) == (0, "outside", 0.5, 1)
        assert math.isnan(last.region_ml)
        assert math.isnan(last.share)

    @pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64])
    def test_integer_dtypes_are_accepted(self, dtype: type) -> None:
        lesions, atlas = line("0110").astype(dtype), line("2255").astype(dtype)
        rows = by_label(load_per_region(lesions, atlas, ML, NAMES))
        assert (rows[2].lesion_ml, rows[5].lesion_ml, rows[0].lesion_ml) == (1, 1, 0)

    @pytest.mark.parametrize(
        ("atlas", "counted"),
        [
            ("22255", 2),
            ("22555", 5),
            ("52252", 2),
            ("20055", 5),  # a tie: a labelled region is preferred to label 0
            ("20005", 0),
            ("22550", 2),  # a tie of two regions: the smaller label
            ("00000", 0),
        ],
    )
    def test_lesion_counts_in_region_with_largest_overlap(self, atlas: str, counted: int) -> None:
        rows = load_per_region(line("11111"), line(atlas), ML, NAMES)
        assert [row.label for row in rows if row.lesion_count] == [counted]
        assert sum(row.lesion_count for row in rows) == 1
        assert {row.label: row.lesion_ml for row in rows if row.lesion_ml} == {
            int(code): atlas.count(code) for code in set(atlas)
        }

    def test_components_of_binary_mask_are_counted(self) -> None:
        mask = line("1101010") > 0
        rows = by_label(load_per_region(mask, line("2222555"), ML, NAMES))
        assert (rows[2].lesion_count, rows[2].lesion_ml) == (2, 3)
        assert (rows[5].lesion_count, rows[5].lesion_ml) == (1, 1)

    def test_gaps_in_lesion_labels_are_not_counted(self) -> None:
        rows = by_label(load_per_region(line("7003"), line("2222"), ML, NAMES))
        assert rows[2].lesion_count == 2

    def test_regions_without_lesions_are_reported(self) -> None:
        rows = by_label(load_per_region(line("0000"), line("2250"), ML, NAMES))
        assert list(rows) == [2, 5, 1035, 0]
        assert [row.region_ml for row in rows.values()][:3] == [2, 1, 0]
        assert [row.lesion_ml for row in rows.values()] == [0, 0, 0, 0]
        assert [row.lesion_count for row in rows.values()] == [0, 0, 0, 0]
        assert (rows[2].share, rows[5].share) == (0, 0)
        assert math.isnan(rows[1035].share)

    def test_unnamed_regions_are_named_by_label(self) -> None:
        rows = load_per_region(line("0000"), line("2350"), ML, {2: "left", 0: "Unknown"})
        assert [row.name for row in rows] == ["left", "label 3", "label 5", "Unknown"]

    def test_different_grids_are_refused(self) -> None:
        with pytest.raises(ValueError, match="differ in grid"):
            load_per_region(line("000"), line("0000"), ML, {})

    @given(LESIONS, LABELS)
    def test_volumes_and_counts_add_up(
        self, lesions: NDArray[np.int32], atlas: NDArray[np.int32]
    ) -> None:
        rows = load_per_region(lesions, atlas, ML, NAMES)
        assert [row.label for row in rows] == [2, 5, 1035, 0]
        assert sum(row.lesion_ml for row in rows) == np.count_nonzero(lesions)
        assert sum(row.lesion_count for row in rows) == len(np.unique(lesions[lesions > 0]))
        for row in rows[:3]:
            assert row.region_ml == np.count_nonzero(atlas == row.label)
            assert row.lesion_ml == np.count_nonzero((atlas == row.label) & (lesions > 0))

    @given(LESIONS, LABELS)
    def test_memory_order_changes_nothing(
        self, lesions: NDArray[np.int32], atlas: NDArray[np.int32]
    ) -> None:
        expected = load_per_region(lesions, atlas, ML, NAMES)
        turned = load_per_region(np.asfortranarray(lesions), atlas, ML, NAMES)
        # NaN is not equal to itself
        assert repr(turned) == repr(expected)


def test_columns_match_fields_of_region_load() -> None:
    assert tuple(REGION_COLUMNS) == RegionLoad.__match_args__
