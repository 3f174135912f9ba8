"""Lesion tables with one row per lesion, and the lesion loads that sum them."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.lesions.instances import label_lesions
from bids_msseg.lesions.load import (
    COLUMNS,
    LesionRow,
    column_dictionary,
    lesion_load_ml,
    rows_to_table,
    summarise,
)
from bids_msseg.lesions.load_table import lesion_table
from bids_msseg.lesions.regions import Region

# a tilted, anisotropic grid, first axis to the left: voxels of 0.5 × 1 × 3 mm
TILTED = np.array(
    [[-0.5, 0, 0, 90], [0, 0.8, -1.8, -100], [0, 0.6, 2.4, -50], [0, 0, 0, 1]], float
)
LABELS = hnp.arrays(np.int32, (4, 3, 5), elements=st.integers(0, 4))


@pytest.fixture
def labels() -> NDArray[np.int32]:
    image = np.zeros((12, 10, 8), np.int32)
    image[2:6, 3:5, 4:7] = 1
    image[9, 9, 0] = 2
    return image


class TestLesionTable:
    def test_volumes_and_centroids(self, labels: NDArray[np.int32]) -> None:
        first, second = lesion_table(labels, TILTED)
        assert (first.index, first.n_voxels, second.index, second.n_voxels) == (1, 24, 2, 1)
        assert first.volume_mm3 == pytest.approx(24 * 1.5)
        assert second.volume_mm3 == pytest.approx(1.5)
        assert first.centroid == pytest.approx(tuple(apply_affine(TILTED, [3.5, 3.5, 5])))
        assert second.centroid == pytest.approx(tuple(apply_affine(TILTED, [9, 9, 0])))

    def test_centroid_in_template_space(self, labels: NDArray[np.int32]) -> None:
        to_template = np.array([[1.1, 0, 0, 2], [0, 0.9, 0, -3], [0, 0.1, 1, 5], [0, 0, 0, 1]])
        row = lesion_table(labels, TILTED, template_affine=to_template)[0]
        assert row.centroid_template == pytest.approx(
            tuple(apply_affine(to_template @ TILTED, [3.5, 3.5, 5]))
        )

    def test_mean_probabilities(self, labels: NDArray[np.int32]) -> None:
        candidate = np.zeros(labels.shape, np.float32)
        candidate[2:4] = 0.8
        candidate[9] = 0.3
        rows = lesion_table(
            labels, TILTED, p_cnn1=candidate, p_final=candidate / 2, p_cnn2_lesion=[0.9, 0.1]
        )
        assert [row.p_cnn1 for row in rows] == pytest.approx([0.4, 0.3])
        assert [row.p_final for row in rows] == pytest.approx([0.2, 0.15])
        assert [row.p_cnn2_lesion for row in rows] == [0.9, 0.1]

    def test_main_region_and_region_shares(self, labels: NDArray[np.int32]) -> None:
        places = np.full(labels.shape, Region.DEEP_WHITE_MATTER, np.int8)
        places[:, :, 4] = Region.PERIVENTRICULAR
        places[:, :, 0] = Region.INFRATENTORIAL
        first, second = lesion_table(labels, TILTED, region_map=places)
        assert (first.region, second.region) == ("periventricular", "infratentorial")
        assert first.shares == pytest.approx((1 / 3, 0, 0, 2 / 3))
        assert second.shares == (0, 0, 1, 0)

    def test_values_without_input_are_missing(self, labels: NDArray[np.int32]) -> None:
        row = lesion_table(labels, TILTED)[0]
        assert (row.centroid_template, row.p_cnn2_lesion) == (None, None)
        assert (row.region, row.status, row.reason) == ("n/a", "kept", "")
        assert all(math.isnan(value) for value in (row.p_cnn1, row.p_final, *row.shares))

    def test_rejected_lesions_have_reasons(self, labels: NDArray[np.int32]) -> None:
        rows = lesion_table(
            labels, TILTED, status="rejected", reasons={1: "refinement", 2: "size"}
        )
        assert [(row.status, row.reason) for row in rows] == [
            ("rejected", "refinement"),
            ("rejected", "size"),
        ]

    def test_values_are_assigned_by_label_despite_gaps(self, labels: NDArray[np.int32]) -> None:
        labels[labels == 2] = 5
        rows = lesion_table(
            labels,
            TILTED,
            p_cnn2_lesion=[0.1, 0.2, 0.3, 0.4, 0.5],
            region_map=np.ones(labels.shape, int),
            reasons={5: "size"},
        )
        assert [(row.index, row.p_cnn2_lesion, row.reason) for row in rows] == [
            (1, 0.1, ""),
            (5, 0.5, "size"),
        ]

    def test_table_of_no_lesions_is_empty(self) -> None:
        empty = np.zeros((3, 3, 3), np.int32)
        assert lesion_table(empty, TILTED, p_cnn1=np.zeros((3, 3, 3))) == ()

    @pytest.mark.parametrize("name", ["p_cnn1", "p_final", "region_map"])
    def test_different_grids_are_refused(self, labels: NDArray[np.int32], name: str) -> None:
        with pytest.raises(ValueError, match="differ in grid"):
            lesion_table(labels, TILTED, **{name: np.zeros((3, 3, 3), int)})

    @given(LABELS)
    def test_agrees_with_scipy(self, labels: NDArray[np.int32]) -> None:
        image = np.random.default_rng(0).random(labels.shape)
        rows = lesion_table(labels, TILTED, p_final=image)
        index = [row.index for row in rows]
        assert index == [value for value in np.unique(labels).tolist() if value]
        centres = np.reshape(ndimage.center_of_mass(labels > 0, labels, index), (-1, 3))
        assert np.allclose(
            np.reshape([row.centroid for row in rows], (-1, 3)), apply_affine(TILTED, centres)
        )
        assert np.allclose([row.p_final for row in rows], ndimage.mean(image, labels, index))

    @given(LABELS)
    def test_memory_order_changes_nothing(self, labels: NDArray[np.int32]) -> None:
        image = np.random.default_rng(0).random(labels.shape)
        assert lesion_table(labels, np.eye(4), p_final=image).__repr__() == (
            lesion_table(
                np.asfortranarray(labels), np.eye(4), p_final=np.asfortranarray(image)
            ).__repr__()
        )


class TestLoad:
    def test_lesion_load_of_mask_is_in_ml(self, labels: NDArray[np.int32]) -> None:
        assert lesion_load_ml(labels > 0, 1.5) == pytest.approx(0.0375)

    def test_regions_share_a_confluent_lesion_but_count_it_once(
        self, labels: NDArray[np.int32]
    ) -> None:
        places = np.full(labels.shape, Region.DEEP_WHITE_MATTER, np.int8)
        places[:, :, 4] = Region.PERIVENTRICULAR
        load = summarise(lesion_table(labels, TILTED, region_map=places))
        assert load.n_lesions == 2
        assert load.total_ml == pytest.approx(0.0375)
        assert load.region_ml == pytest.approx({1: 0.012, 2: 0, 3: 0, 4: 0.0255})
        assert load.region_count == {1: 1, 2: 0, 3: 0, 4: 1}

    def test_rejected_candidates_do_not_count(self, labels: NDArray[np.int32]) -> None:
        kept, other = lesion_table(labels, TILTED)
        rejected = dataclasses.replace(other, status="rejected", reason="refinement")
        load = summarise([kept, rejected])
        assert (load.n_lesions, load.total_ml) == (1, pytest.approx(0.036))

    def test_load_without_lesions_is_zero(self) -> None:
        load = summarise([])
        assert (load.total_ml, load.n_lesions) == (0, 0)
        assert set(load.region_ml.values()) == {0}

    def test_load_of_unknown_regions_is_nan(self, labels: NDArray[np.int32]) -> None:
        load = summarise(lesion_table(labels, TILTED))
        assert all(math.isnan(value) for value in load.region_ml.values())

    @given(LABELS)
    def test_regional_loads_add_up_to_total(self, labels: NDArray[np.int32]) -> None:
        places = np.random.default_rng(0).integers(1, 5, labels.shape)
        load = summarise(lesion_table(labels, TILTED, region_map=places))
        assert load.total_ml == pytest.approx(lesion_load_ml(labels, 1.5))
        assert sum(load.region_ml.values()) == pytest.approx(load.total_ml)
        assert sum(load.region_count.values()) == load.n_lesions


class TestTable:
    ROW = LesionRow(
        index=3,
        volume_mm3=41.256,
        n_voxels=28,
        centroid=(-12.3456, 0.0, 7.0),
        centroid_template=None,
        p_cnn1=0.87654,
        p_final=float("nan"),
        p_cnn2_lesion=None,
        region="juxtacortical",
        shares=(0.0, 0.25, 0.0, 0.75),
        status="kept",
        reason="",
    )

    def test_fields_of_rows_in_older_work_folders_are_the_required_ones(self) -> None:
        fields = dataclasses.fields(LesionRow)
        required = {field.name for field in fields if field.default is dataclasses.MISSING}
        assert required == {
            "index", "volume_mm3", "n_voxels", "centroid", "centroid_template", "p_cnn1",
            "p_final", "p_cnn2_lesion", "region", "shares", "status", "reason",
        }  # fmt: skip

    def test_row_is_formatted_as_table_cells(self) -> None:
        assert rows_to_table([self.ROW]) == [
            {
                "index": "3",
                "volume_mm3": "41.26",
                "n_voxels": "28",
                "centroid_x": "-12.35",
                "centroid_y": "0.00",
                "centroid_z": "7.00",
                "centroid_template_x": "n/a",
                "centroid_template_y": "n/a",
                "centroid_template_z": "n/a",
                "p_cnn1": "0.8765",
                "p_final": "n/a",
                "p_cnn2_lesion": "n/a",
                "region": "juxtacortical",
                "share_periventricular": "0.000",
                "share_juxtacortical": "0.250",
                "share_infratentorial": "0.000",
                "share_deep_white_matter": "0.750",
                "status": "kept",
                "reason": "n/a",
                "confidence": "n/a",
                "image_quality": "n/a",
            }
        ]

    def test_all_row_fields_have_a_column(self) -> None:
        """Detects a field of the row that has no column."""
        names = " ".join(column.name for column in COLUMNS)
        for field in dataclasses.fields(LesionRow):
            assert field.name.removesuffix("s") in names

    def test_dictionary_describes_exactly_the_columns(self) -> None:
        entries = column_dictionary()
        assert list(entries) == list(rows_to_table([self.ROW])[0])
        assert all(entry["Description"] for entry in entries.values())
        assert entries["volume_mm3"]["Units"] == "mm^3"
        assert entries["centroid_template_x"]["Units"] == "mm"
        assert set(entries["region"]["Levels"]) == {region.label for region in Region}
        assert set(entries["status"]["Levels"]) == {"kept", "rejected"}
        assert set(entries["image_quality"]["Levels"]) == {"ok", "flagged"}
        assert "Units" not in entries["p_cnn2_lesion"]

    def test_table_without_rows_is_empty(self) -> None:
        assert rows_to_table([]) == []


def test_five_hundred_lesions_have_a_row_each() -> None:
    rng = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(rng.standard_normal((320, 320, 48)).astype(np.float32), 2)
    labels = label_lesions(noise > np.quantile(noise, 0.997), voxel_volume=2.0, min_volume=3)
    places = rng.integers(1, 5, labels.shape, np.int8)
    rows = lesion_table(labels, TILTED, p_cnn1=noise, p_final=noise, region_map=places)
    assert len(rows) == labels.max() > 500
    voxel = abs(np.linalg.det(TILTED[:3, :3]))
    assert sum(row.volume_mm3 for row in rows) == pytest.approx((labels > 0).sum() * voxel)
