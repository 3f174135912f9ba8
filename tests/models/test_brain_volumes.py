"""Label image of a brain, and the volumes and fractions that follow from it."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from numpy.typing import NDArray

from bids_msseg.imaging.volume import Affine, Volume
from bids_msseg.models.anatomy import CLASSES, LABELS, Anatomy
from bids_msseg.models.brain_volumes import (
    LABEL_COLUMNS,
    MEASURES,
    PARENCHYMA,
    VENTRICLES,
    BrainVolumes,
    implausible,
    label_map,
    label_rows,
    measure_volumes,
    side_ratio,
)

A = Anatomy
TYPICAL = {
    A.SULCAL_FLUID: 150.0,
    A.VENTRICLE: 30.0,
    A.CHOROID_PLEXUS: 3.0,
    A.CORTEX: 500.0,
    A.WHITE_MATTER: 450.0,
    A.DEEP_GREY: 35.0,
    A.HIPPOCAMPUS_AMYGDALA: 12.0,
    A.CEREBELLAR_CORTEX: 100.0,
    A.CEREBELLAR_WHITE: 28.0,
    A.BRAINSTEM: 25.0,
}


def shifted(*origin: float, edge: float = 1.0) -> Affine:
    affine = np.diag([edge, edge, edge, 1.0])
    affine[:3, 3] = origin
    return affine


def posterior(shape: tuple[int, int, int], **shares: float) -> NDArray[np.float16]:
    """Return the same class probabilities in every voxel."""
    found = np.zeros((CLASSES, *shape), np.float16)
    for name, share in shares.items():
        found[A[name.upper()]] = share
    return found


def halves(axis: int, first: Anatomy, second: Anatomy) -> NDArray[np.float16]:
    """4 x 4 x 4 voxels of 2 mm: one class in the first two along an axis, another behind them."""
    found = posterior((4, 4, 4))
    front, back = [[slice(None)] * 3 for _ in range(2)]
    front[axis], back[axis] = slice(0, 2), slice(2, 4)
    found[(first, *front)] = 1
    found[(second, *back)] = 1
    return found


class TestLabelMap:
    @pytest.mark.parametrize("axis", [0, 1, 2])
    @pytest.mark.parametrize(
        ("first", "second"),
        [
            (A.CORTEX, A.WHITE_MATTER),
            (A.WHITE_MATTER, A.VENTRICLE),
            (A.VENTRICLE, A.SULCAL_FLUID),
        ],
    )
    def test_working_grid_has_two_voxels_per_coarse_voxel(
        self, axis: int, first: Anatomy, second: Anatomy
    ) -> None:
        affine = shifted(-3, 5, 7)
        brain = Volume(np.ones((8, 8, 8), bool), affine)
        labels = np.moveaxis(label_map(halves(axis, first, second), affine, brain), axis, 0)
        assert labels.dtype == np.uint8
        assert np.unique(labels[:4]).tolist() == [first]
        assert np.unique(labels[4:]).tolist() == [second]

    @pytest.mark.parametrize("plexus", [0.1, 0.25, 0.4, 0.6])
    def test_ventricle_and_plexus_compete_together_with_other_classes(self, plexus: float) -> None:
        soft = posterior((2, 2, 2), choroid_plexus=plexus, ventricle=0.6 - plexus, cortex=0.4)
        brain = Volume(np.ones((4, 4, 4), bool), np.eye(4))
        expected = A.CHOROID_PLEXUS if plexus > 0.3 else A.VENTRICLE
        assert np.unique(label_map(soft, np.eye(4), brain)).tolist() == [expected]

    def test_grid_with_odd_size_is_labelled(self) -> None:
        brain = Volume(np.ones((7, 5, 3), bool), np.eye(4))
        labels = label_map(posterior((4, 3, 2), cortex=1), np.eye(4), brain)
        assert np.unique(labels).tolist() == [A.CORTEX]

    def test_probabilities_are_interpolated_before_they_are_compared(self) -> None:
        """The label of a confident voxel extends into an uncertain neighbour."""
        soft = posterior((4, 1, 1))
        soft[A.CORTEX, :2], soft[A.WHITE_MATTER, :2] = 1.0, 0.0
        soft[A.CORTEX, 2:], soft[A.WHITE_MATTER, 2:] = 0.375, 0.625
        brain = Volume(np.ones((8, 1, 1), bool), np.eye(4))
        # at 1 mm voxel 4, a quarter of the way back: cortex .53
        labels = label_map(soft, np.eye(4), brain).ravel().tolist()
        assert labels == [A.CORTEX] * 5 + [A.WHITE_MATTER] * 3

    def test_no_label_outside_brain(self) -> None:
        mask = np.zeros((8, 8, 8), np.uint8)
        mask[2:5, 3:7, 1:8] = 1
        labels = label_map(posterior((4, 4, 4), cortex=1), np.eye(4), Volume(mask, np.eye(4)))
        np.testing.assert_array_equal(labels, mask * A.CORTEX)

    def test_no_background_inside_the_brain(self) -> None:
        soft = posterior((2, 2, 2), background=0.5, extra_cerebral=0.3, sulcal_fluid=0.2)
        brain = Volume(np.ones((4, 4, 4), bool), np.eye(4))
        assert np.unique(label_map(soft, np.eye(4), brain)).tolist() == [A.SULCAL_FLUID]

    def test_voxels_without_prediction_have_no_label(self) -> None:
        brain = Volume(np.ones((4, 4, 4), bool), np.eye(4))
        assert not label_map(posterior((2, 2, 2)), np.eye(4), brain).any()
        far = Volume(np.ones((4, 4, 4), bool), shifted(100, 0, 0))
        assert not label_map(posterior((2, 2, 2), cortex=1), np.eye(4), far).any()

    def test_empty_brain_mask_gives_empty_label_map(self) -> None:
        nothing = Volume(np.zeros((4, 4, 4), bool), np.eye(4))
        labels = label_map(posterior((2, 2, 2), cortex=1), np.eye(4), nothing)
        assert labels.shape == (4, 4, 4)
        assert not labels.any()

    @pytest.mark.parametrize("edge", [0.5, 1.0, 2.0])
    def test_label_map_on_grids_of_other_resolution(self, edge: float) -> None:
        """The border lies at 4 mm from the first face on every grid."""
        count = round(8 / edge)
        start = edge / 2 - 0.5
        brain = Volume(np.ones((count,) * 3, bool), shifted(start, start, start, edge=edge))
        labels = label_map(halves(0, A.CORTEX, A.WHITE_MATTER), np.eye(4), brain)
        assert np.unique(labels[: count // 2]).tolist() == [A.CORTEX]
        assert np.unique(labels[count // 2 :]).tolist() == [A.WHITE_MATTER]

    def test_transform_goes_from_the_brain_to_the_working_grid(self) -> None:
        brain = Volume(np.ones((4, 4, 4), bool), np.eye(4))
        move = shifted(4, 0, 0)
        labels = label_map(halves(0, A.CORTEX, A.WHITE_MATTER), np.eye(4), brain, transform=move)
        assert np.unique(labels).tolist() == [A.WHITE_MATTER]

    @pytest.mark.parametrize("classes", [1, CLASSES - 1, CLASSES + 1])
    def test_wrong_number_of_classes_is_refused(self, classes: int) -> None:
        brain = Volume(np.ones((4, 4, 4), bool), np.eye(4))
        with pytest.raises(ValueError, match=f"{classes} classes"):
            label_map(np.zeros((classes, 2, 2, 2)), np.eye(4), brain)


class TestVolumes:
    def test_measure_volumes_of_every_label(self) -> None:
        labels = np.repeat([0, 2, 3, 5], [100, 10, 60, 30]).reshape(2, 10, 10)
        volumes = measure_volumes(labels.astype(np.uint8), voxel_volume=500.0)
        expected = dict.fromkeys(LABELS, 0.0)
        expected |= {
            A.SULCAL_FLUID: 5.0,
            A.VENTRICLE: 30.0,
            A.WHITE_MATTER: 15.0,
        }
        assert volumes.ml == expected
        assert volumes.total() == 50
        assert volumes.total(A.VENTRICLE, A.WHITE_MATTER) == 45
        assert volumes.parenchymal_fraction == 0.3
        assert volumes.ventricular_fraction == 2.0

    def test_fractions_of_empty_label_map_are_nan(self) -> None:
        volumes = measure_volumes(np.zeros((2, 2, 2), np.uint8), voxel_volume=1.0)
        assert math.isnan(volumes.parenchymal_fraction)
        assert math.isnan(volumes.ventricular_fraction)

    def test_parenchyma_ventricles_and_sulci_cover_all_labels(self) -> None:
        assert {*PARENCHYMA, *VENTRICLES, A.SULCAL_FLUID} == set(LABELS)
        assert len(PARENCHYMA) + 3 == len(LABELS)

    def test_measures_of_a_typical_brain(self) -> None:
        volumes = BrainVolumes(TYPICAL)
        values = {one.name: one.value(volumes) for one in MEASURES}
        assert values == pytest.approx(
            {
                "parenchyma_ml": 1150,
                "ventricles_ml": 33,
                "choroid_plexus_ml": 3,
                "cortex_ml": 500,
                "white_matter_ml": 450,
                "deep_grey_ml": 35,
                "hippocampus_amygdala_ml": 12,
                "cerebellum_ml": 128,
                "brainstem_ml": 25,
                "brain_parenchymal_fraction": 1150 / 1333,
                "ventricular_fraction": 33 / 1150,
            }
        )

    @pytest.mark.parametrize(
        ("kept", "expected"), [(slice(None), 1.0), (slice(2, None), 2.0), (slice(0, 7), 0.75)]
    )
    def test_side_ratio_of_cerebrum(self, kept: slice, expected: float) -> None:
        """Eight voxels of cerebrum along x, the right half from the fifth on."""
        labels = np.zeros((8, 3, 1), np.uint8)
        labels[kept, 0], labels[kept, 1] = A.CORTEX, A.WHITE_MATTER
        labels[:4, 2] = A.CEREBELLAR_CORTEX
        right = np.zeros(labels.shape, bool)
        right[4:] = True
        assert side_ratio(labels, right) == expected

    def test_side_ratio_without_left_is_nan(self) -> None:
        labels = np.full((2, 2, 2), A.CORTEX, np.uint8)
        assert math.isnan(side_ratio(labels, np.ones(labels.shape, bool)))


class TestPlausible:
    def test_typical_brain_is_plausible(self) -> None:
        assert implausible(BrainVolumes(TYPICAL), 1.02) == ()

    @pytest.mark.parametrize(
        ("changed", "flagged"),
        [
            ({A.VENTRICLE: 0.5, A.CHOROID_PLEXUS: 0.0}, ["ventricles_ml", "ventricular_fraction"]),
            ({A.BRAINSTEM: 0.0}, ["brainstem_ml"]),
            ({A.CORTEX: 1000.0}, ["cortex_ml"]),
            ({A.CEREBELLAR_CORTEX: 10.0}, ["cerebellum_ml"]),
            ({A.SULCAL_FLUID: 900.0}, ["brain_parenchymal_fraction"]),
            ({A.WHITE_MATTER: 100.0}, ["white_matter_ml"]),
        ],
    )
    def test_measure_outside_limits_is_flagged(
        self, changed: dict[Anatomy, float], flagged: list[str]
    ) -> None:
        found = implausible(BrainVolumes({**TYPICAL, **changed}))
        assert [text.split()[0] for text in found] == flagged

    @pytest.mark.parametrize("ratio", [0.5, 2.0, math.nan])
    def test_implausible_side_ratio_is_flagged(self, ratio: float) -> None:
        (found,) = implausible(BrainVolumes(TYPICAL), ratio)
        assert found.startswith("right_left_ratio")

    def test_an_empty_brain_has_no_plausible_measure(self) -> None:
        found = implausible(BrainVolumes(dict.fromkeys(LABELS, 0.0)))
        assert [text.split()[0] for text in found] == [
            one.name for one in MEASURES if one.plausible[0] > 0
        ]

    def test_plausible_limits_are_ascending(self) -> None:
        assert all(0 <= one.plausible[0] < one.plausible[1] for one in MEASURES)


class TestTables:
    def test_label_rows_of_typical_brain(self) -> None:
        rows = label_rows(BrainVolumes(TYPICAL))
        assert [row["index"] for row in rows] == list(range(2, 12))
        assert all(tuple(row) == tuple(LABEL_COLUMNS) for row in rows)
        assert rows[2] == {
            "index": 4,
            "name": "cerebral cortex",
            "abbreviation": "CGM",
            "color": "#cd3e4e",
            "mapping": 8,
            "volume_ml": 500.0,
        }

    def test_label_names_and_colours_are_unique(self) -> None:
        for field in ("name", "abbreviation", "colour"):
            assert len({getattr(label, field) for label in LABELS.values()}) == len(LABELS)
        assert all(re.fullmatch("#[0-9a-f]{6}", label.colour) for label in LABELS.values())
        assert all(label.mapping in (None, *range(1, 12)) for label in LABELS.values())
