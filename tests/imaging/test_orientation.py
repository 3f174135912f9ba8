"""Rotated images are registered correctly; ambiguous alignments get a failure reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from bids_msseg.imaging.registration import affine as register
from bids_msseg.imaging.registration import orientation_search as search
from bids_msseg.imaging.registration import pyramid
from bids_msseg.imaging.registration.affine import register_affine, register_rigid
from bids_msseg.imaging.registration.orientation import (
    Overlay,
    best_starts,
    lead,
    mean_distance,
    mutual_information,
    prominence,
    quarter_turns,
    rotations,
    similarity_affine,
    turn_degrees,
)
from bids_msseg.imaging.registration.result import Registration
from bids_msseg.imaging.volume import Affine, Volume

from .conftest import grid, rigid, world

HALF_AXES = (50.0, 80.0, 62.0)
# centre, radius, value in one contrast and in the other
SPOTS = (
    ((25, 30, 10), 18, 60, 250),
    ((-20, -40, -25), 20, 150, 60),
    ((15, -30, 30), 15, 220, 120),
    ((-25, 20, 25), 12, 30, 180),
)
# nearly symmetric like a head: pairs left and right, and one spot on each side only
HEAD_SPOTS = (
    *(((side * 20, 32, 10), 16, 60, 250) for side in (-1, 1)),
    *(((side * 22, -45, -20), 18, 150, 60) for side in (-1, 1)),
    ((0, -20, 42), 14, 220, 120),
    ((28, -5, 15), 15, 30, 180),
    ((-28, 5, -20), 15, 190, 80),
)
# centre and radius: nose, neck, one ear
HEAD_PARTS = (((0, 98, -15), 16), ((0, -30, -80), 34), ((66, -5, -10), 12))
TURNS = [(90, 0, 5), (4, 180, 0), (0, -90, 6), (3, 5, 90), (180, 0, 0)]


def asymmetric_brain(
    contrast: int, spacing: float = 5.0, spots: Sequence[Any] = SPOTS
) -> tuple[Volume, NDArray[np.bool_]]:
    """An ellipsoid brain with spots, without rotational symmetry, and its mask."""
    shape, affine = grid((spacing,) * 3)
    points = world(shape, affine)
    inside = ((points / HALF_AXES) ** 2).sum(axis=1) <= 1
    data = np.where(inside, (100.0, 140.0)[contrast], 0.0)
    for centre, radius, *values in spots:
        data[((points - centre) ** 2).sum(axis=1) <= radius**2] = values[contrast]
    data += np.random.default_rng(contrast).normal(0, 3, len(data)) * inside
    data = np.where(inside, np.maximum(data, 1), 0).reshape(shape)
    return Volume(data.astype(np.float32), affine), inside.reshape(shape)


def off_mm(one: Affine, other: Affine) -> float:
    """Mean distance in mm between eight points mapped by two affines."""
    corners = np.array([[x, y, z] for x in (-40, 40) for y in (-60, 60) for z in (-50, 50)])
    return mean_distance(one, other, corners.astype(float))


def test_rotations_are_orthogonal_and_cover_all_orientations() -> None:
    found = rotations()
    assert len(found) == 624
    np.testing.assert_allclose(found @ found.transpose(0, 2, 1), [np.eye(3)] * 624, atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(found), 1)
    for turn in Rotation.random(200, rng=3).as_matrix():
        # the trace of one times the other's inverse is 1 + 2 cos of the angle between them
        cosines = (np.einsum("nij,ij->n", found, turn) - 1) / 2
        assert np.rad2deg(np.arccos(np.clip(cosines.max(), -1, 1))) < 40


@pytest.mark.parametrize("degrees", [0, 20, 90, 135, 180])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_turn_degrees_returns_rotation_angle(axis: int, degrees: int) -> None:
    turn = [0.0, 0.0, 0.0]
    turn[axis] = degrees
    affine = rigid((turn[0], turn[1], turn[2]), (5, 6, 7)) @ np.diag([0.8, 0.9, 1.1, 1.0])
    # the cosine is flat at 0 and 180 degrees, so the angle is less exact there
    assert turn_degrees(affine) == pytest.approx(degrees, abs=0.1)


def test_prominence_is_above_one_for_correct_alignment_only() -> None:
    fixed, brain = asymmetric_brain(0)
    overlay = Overlay.of(fixed, brain, asymmetric_brain(1)[0])
    centre = np.zeros(3)
    assert prominence(overlay, np.eye(4), centre) > 1.2
    for wrong in ((90, 0, 0), (0, 180, 0), (0, 0, 90)):
        assert prominence(overlay, rigid(wrong, (0, 0, 0)), centre) < 1


@pytest.mark.parametrize("same_mm", [1.0, 5.0])
def test_lead_is_ratio_to_best_other_optimum(same_mm: float) -> None:
    fixed, brain = asymmetric_brain(0)
    overlay = Overlay.of(fixed, brain, asymmetric_brain(1)[0])
    beside = similarity_affine(np.eye(3), np.zeros(3), np.array([2.0, 0.0, 0.0]))
    far = [rigid(turn, (0, 0, 0)) for turn in ((90, 0, 0), (0, 90, 0))]
    most = max(overlay.information(place) for place in far)
    expected = overlay.information(np.eye(4))
    if same_mm < 2:
        most = max(most, overlay.information(beside))
    else:
        expected = max(expected, overlay.information(beside))
    found = lead(overlay, np.eye(4), [beside, *far], same_mm)
    assert found == pytest.approx(expected / most)


@pytest.mark.parametrize("turn", range(24))
def test_exact_quarter_turn_is_best_start(turn: int) -> None:
    fixed, brain = asymmetric_brain(0, 8.0)
    moving, _ = asymmetric_brain(1, 8.0)
    truth = similarity_affine(quarter_turns()[turn], np.zeros(3), np.array([30.0, -20.0, 10.0]))
    overlay = Overlay.of(fixed, brain, Volume(moving.data, truth @ moving.affine))
    starts = best_starts(overlay, [(np.zeros(3), truth[:3, 3])], count=3)
    assert off_mm(starts[0], truth) < 1e-6
    assert all(off_mm(other, truth) > 10 for other in starts[1:])


@pytest.mark.slow
@pytest.mark.parametrize("degrees", TURNS)
@pytest.mark.parametrize("with_masks", [True, False])
def test_rigid_registration_recovers_rotated_header(
    degrees: tuple[float, float, float], with_masks: bool
) -> None:
    fixed, brain = asymmetric_brain(0)
    moving, moving_brain = asymmetric_brain(1)
    truth = rigid(degrees, (20, -30, 40))
    moving = Volume(moving.data, truth @ moving.affine)
    found = register_rigid(
        moving, fixed, fixed_mask=brain, moving_mask=moving_brain if with_masks else None
    )
    assert off_mm(found.affine, truth) < 3
    assert found.failure_reason == ""


def head_with_plain_brain(contrast: int) -> tuple[Volume, NDArray[np.bool_]]:
    """A head with scalp, nose and neck whose brain has no structure, and its brain mask."""
    brain, inside = asymmetric_brain(contrast, spots=())
    points = world(brain.shape, brain.affine)
    near = ((points / (np.array(HALF_AXES) + 14)) ** 2).sum(axis=1) <= 1
    for centre, radius in HEAD_PARTS:
        near |= ((points - centre) ** 2).sum(axis=1) <= radius**2
    data = brain.data.copy()
    data[near.reshape(brain.shape) & ~inside] = (60.0, 400.0)[contrast]
    return Volume(data, brain.affine), inside


@pytest.mark.parametrize("degrees", TURNS[:3])
def test_outline_of_head_shows_orientation_of_brain_without_structure(
    degrees: tuple[float, float, float],
) -> None:
    fixed, brain = head_with_plain_brain(0)
    moving, _ = head_with_plain_brain(1)
    truth = rigid(degrees, (20, -30, 40))
    moving = Volume(moving.data, truth @ moving.affine)
    points = register._meeting_points(moving, fixed, None, brain)
    level = pyramid.build_level(moving, fixed, brain, 4.0, None)
    of_brain = search.make_task("rigid", level, level, np.zeros(3), 0, 1)
    of_head = register._whole_head_task(moving, fixed, brain, np.zeros(3), 0, 1)
    starts = best_starts(of_head.overlay, points, count=6)
    assert off_mm(search._find_optima(of_head, np.eye(4), starts)[0], truth) < 8
    clear, unclear = (prominence(task.overlay, truth, np.zeros(3)) for task in (of_head, of_brain))
    assert clear > 1.1 * unclear


@pytest.mark.slow
@pytest.mark.parametrize("degrees", TURNS)
def test_affine_registration_fits_rotated_brain_to_template(
    degrees: tuple[float, float, float],
) -> None:
    fixed, brain = asymmetric_brain(1)
    moving, moving_brain = asymmetric_brain(0)
    truth = rigid(degrees, (20, -30, 40)) @ np.diag([0.9, 0.9, 0.9, 1.0])
    moving = Volume(moving.data, truth @ moving.affine)
    # this phantom is nearly symmetric, so a correct alignment may have a failure reason
    found = register_affine(moving, fixed, moving_mask=moving_brain, fixed_mask=brain)
    assert off_mm(found.affine, truth) < 4


@pytest.mark.parametrize("degrees", TURNS[:3])
def test_second_best_orientation_is_used_if_it_fits_better_on_fine_grid(
    monkeypatch: pytest.MonkeyPatch, degrees: tuple[float, float, float]
) -> None:
    fixed, brain = asymmetric_brain(0)
    moving, _ = asymmetric_brain(1)
    truth = rigid(degrees, (20, -30, 40))
    moving = Volume(moving.data, truth @ moving.affine)
    level = pyramid.build_level(moving, fixed, brain, 5.0, None)
    task = search.make_task("rigid", level, level, np.zeros(3), 0, 1)
    wrong = truth @ rigid((0, 180, 0), (0, 0, 0))
    monkeypatch.setattr(search, "_find_optima", lambda *_: [wrong, truth])
    monkeypatch.setattr(search, "best_starts", lambda *_, **__: [])
    found = search.search_orientations(Registration(np.eye(4), 0.01, 0.01), task, [])
    assert off_mm(found.affine, truth) < 3


@pytest.mark.parametrize("degrees", [(0, 0, 0), (4, -3, 5), (-6, 8, 3)])
@pytest.mark.parametrize("exchanged", [True, False])
def test_image_with_left_and_right_exchanged_is_not_used(
    degrees: tuple[float, float, float], exchanged: bool
) -> None:
    fixed, brain = asymmetric_brain(0, spots=HEAD_SPOTS)
    moving, _ = asymmetric_brain(1, spots=HEAD_SPOTS)
    data = moving.data[::-1].copy() if exchanged else moving.data
    moving = Volume(data, rigid(degrees, (3, -5, 6)) @ moving.affine)
    found = register_rigid(moving, fixed, fixed_mask=brain)
    assert (found.mirrored > search.MAX_MIRRORED) == exchanged
    assert bool(found.failure_reason) == exchanged


def test_orientation_search_keeps_correct_alignment_unchanged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The affine has the same bytes with and without the search over orientations."""
    fixed, brain = asymmetric_brain(0)
    moving, _ = asymmetric_brain(1)
    moving = Volume(moving.data, rigid((4, -3, 5), (3, -5, 6)) @ moving.affine)
    monkeypatch.setattr(register, "MIN_PROMINENCE", 0.0)
    monkeypatch.setattr(register, "SURE_INFORMATION", 0.0)
    monkeypatch.setattr(search, "SURE_INFORMATION", 0.0)
    plain = register_rigid(moving, fixed, fixed_mask=brain)
    assert np.isnan(plain.lead)
    monkeypatch.setattr(register, "MIN_PROMINENCE", np.inf)
    searched = register_rigid(moving, fixed, fixed_mask=brain)
    assert searched.lead > 1
    assert searched.affine.tobytes() == plain.affine.tobytes()
    assert (searched.metric_after, searched.notes) == (plain.metric_after, plain.notes)


@pytest.mark.parametrize(
    ("information", "ahead", "doubted"),
    [
        (0.20, 1.05, True),
        (0.37, 1.19, True),
        (0.15, 0.90, True),
        (0.20, 1.50, False),
        (0.39, 1.00, False),
        (0.55, 2.00, False),
    ],
)
def test_low_information_and_low_lead_give_failure_reason(
    monkeypatch: pytest.MonkeyPatch, information: float, ahead: float, doubted: bool
) -> None:
    fixed, brain = asymmetric_brain(0, 10.0)
    level = pyramid.build_level(fixed, fixed, brain, 10.0, None)
    task = search.make_task("rigid", level, level, np.zeros(3), 0, 1)
    plain = Registration(np.eye(4), 0.1, information)
    monkeypatch.setattr(search, "_find_optima", lambda *_: [np.eye(4)])
    monkeypatch.setattr(search, "best_starts", lambda *_, **__: [])
    monkeypatch.setattr(search, "lead", lambda *_: ahead)
    found = search.search_orientations(plain, task, [])
    assert bool(found.failure_reason) == doubted
    np.testing.assert_array_equal(found.affine, np.eye(4))


@pytest.mark.parametrize(
    ("ahead", "adopted", "doubted"),
    [
        # lead over the next best: of the header's alignment, then of the adopted one
        ((1.10, 2.0), False, False),
        ((0.96, 2.0), False, False),
        ((0.80, 2.0), True, False),
        ((0.80, 1.1), True, True),
    ],
)
def test_header_orientation_is_replaced_only_if_clearly_worse(
    monkeypatch: pytest.MonkeyPatch, ahead: tuple[float, float], adopted: bool, doubted: bool
) -> None:
    fixed, brain = asymmetric_brain(0, 10.0)
    level = pyramid.build_level(fixed, fixed, brain, 10.0, None)
    task = search.make_task("similarity", level, level, np.zeros(3), 0, 1)
    turned = rigid((0, 0, 90), (0, 0, 0))
    plain = Registration(np.eye(4), 0.1, 0.2)
    leads = iter(ahead)
    monkeypatch.setattr(search, "_find_optima", lambda *_: [turned, np.eye(4)])
    monkeypatch.setattr(pyramid, "search", lambda *_, **__: np.eye(4))
    monkeypatch.setattr(pyramid, "information", lambda *_: 0.3)
    monkeypatch.setattr(search, "lead", lambda *_: next(leads))
    found = search.search_affine_orientations(plain, np.eye(4), task, [])
    np.testing.assert_allclose(found.affine, turned if adopted else np.eye(4))
    assert bool(found.failure_reason) == doubted
    assert bool(found.notes) == adopted


@pytest.mark.parametrize("shift", [(60, 0, 0), (0, -70, 0), (0, 0, 65)])
def test_poor_brain_overlap_gives_failure_reason(shift: tuple[float, ...]) -> None:
    fixed, brain = asymmetric_brain(1, 10.0)
    volume = fixed.with_data(brain)
    astray = replace(Registration(np.eye(4), 0, 0), affine=rigid((0, 0, 0), shift))  # type: ignore[arg-type]
    assert register._with_overlap(astray, volume, volume).failure_reason
    assert (
        register._with_overlap(Registration(np.eye(4), 0, 0), volume, volume).failure_reason == ""
    )


def test_mutual_information_of_small_histograms() -> None:
    assert mutual_information(np.ones((2, 2))) == 0
    assert mutual_information(np.eye(2)) == pytest.approx(np.log(2))


def test_quarter_turns_are_24_distinct_rotations() -> None:
    turns = quarter_turns()
    assert len({turn.tobytes() for turn in turns}) == 24
    assert np.unique(turns).tolist() == [-1.0, 0.0, 1.0]


def test_mean_distance_of_shift() -> None:
    moved = similarity_affine(np.eye(3), np.zeros(3), np.array([3.0, 4.0, 0.0]))
    assert mean_distance(np.eye(4), moved, np.ones((2, 3))) == 5.0
