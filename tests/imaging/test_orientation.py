"""Turned images are found again, and what does not stand out is doubted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from bids_msseg.imaging.registration import affine as register
from bids_msseg.imaging.registration import pyramid
from bids_msseg.imaging.registration.affine import Registration, register_affine, register_rigid
from bids_msseg.imaging.registration.orientation import (
    Overlay,
    best_starts,
    lead,
    mean_distance,
    prominence,
    quarter_turns,
    rotations,
    similarity_affine,
    turn_degrees,
)
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
TURNS = [(90, 0, 5), (4, 180, 0), (0, -90, 6), (3, 5, 90), (180, 0, 0)]


def lopsided(contrast: int, spacing: float = 5.0) -> tuple[Volume, NDArray[np.bool_]]:
    """A brain of three different half axes with four spots, and its mask: no turn maps it."""
    shape, affine = grid((spacing,) * 3)
    points = world(shape, affine)
    inside = ((points / HALF_AXES) ** 2).sum(axis=1) <= 1
    data = np.where(inside, (100.0, 140.0)[contrast], 0.0)
    for centre, radius, *values in SPOTS:
        data[((points - centre) ** 2).sum(axis=1) <= radius**2] = values[contrast]
    data += np.random.default_rng(contrast).normal(0, 3, len(data)) * inside
    data = np.where(inside, np.maximum(data, 1), 0).reshape(shape)
    return Volume(data.astype(np.float32), affine), inside.reshape(shape)


def off_mm(one: Affine, other: Affine) -> float:
    """Mean distance within a brain."""
    corners = np.array([[x, y, z] for x in (-40, 40) for y in (-60, 60) for z in (-50, 50)])
    return mean_distance(one, other, corners.astype(float))


def test_rotations_are_rotations_and_cover_all() -> None:
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
def test_the_angle_of_a_turn(axis: int, degrees: int) -> None:
    turn = [0.0, 0.0, 0.0]
    turn[axis] = degrees
    affine = rigid((turn[0], turn[1], turn[2]), (5, 6, 7)) @ np.diag([0.8, 0.9, 1.1, 1.0])
    # a half turn and no turn have a flat cosine
    assert turn_degrees(affine) == pytest.approx(degrees, abs=0.1)


def test_a_place_stands_out_from_its_turns_and_shifts() -> None:
    fixed, brain = lopsided(0)
    overlay = Overlay.of(fixed, brain, lopsided(1)[0])
    centre = np.zeros(3)
    assert prominence(overlay, np.eye(4), centre) > 1.2
    for wrong in ((90, 0, 0), (0, 180, 0), (0, 0, 90)):
        assert prominence(overlay, rigid(wrong, (0, 0, 0)), centre) < 1


@pytest.mark.parametrize("same_mm", [1.0, 5.0])
def test_the_lead_is_over_the_best_other_place(same_mm: float) -> None:
    fixed, brain = lopsided(0)
    overlay = Overlay.of(fixed, brain, lopsided(1)[0])
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
def test_an_exact_quarter_turn_is_the_best_start(turn: int) -> None:
    fixed, brain = lopsided(0, 8.0)
    moving, _ = lopsided(1, 8.0)
    truth = similarity_affine(quarter_turns()[turn], np.zeros(3), np.array([30.0, -20.0, 10.0]))
    overlay = Overlay.of(fixed, brain, Volume(moving.data, truth @ moving.affine))
    starts = best_starts(overlay, [(np.zeros(3), truth[:3, 3])], count=3)
    assert off_mm(starts[0], truth) < 1e-6
    assert all(off_mm(other, truth) > 10 for other in starts[1:])


@pytest.mark.slow
@pytest.mark.parametrize("degrees", TURNS)
@pytest.mark.parametrize("with_masks", [True, False])
def test_a_turned_header_is_not_followed(
    degrees: tuple[float, float, float], with_masks: bool
) -> None:
    fixed, brain = lopsided(0)
    moving, moving_brain = lopsided(1)
    truth = rigid(degrees, (20, -30, 40))
    moving = Volume(moving.data, truth @ moving.affine)
    found = register_rigid(
        moving, fixed, fixed_mask=brain, moving_mask=moving_brain if with_masks else None
    )
    assert off_mm(found.affine, truth) < 3
    assert found.failure_reason == ""


@pytest.mark.slow
@pytest.mark.parametrize("degrees", TURNS)
def test_a_turned_brain_is_fitted_to_its_template(degrees: tuple[float, float, float]) -> None:
    fixed, brain = lopsided(1)
    moving, moving_brain = lopsided(0)
    truth = rigid(degrees, (20, -30, 40)) @ np.diag([0.9, 0.9, 0.9, 1.0])
    moving = Volume(moving.data, truth @ moving.affine)
    # this phantom is nearly symmetric, so a right place may still be in doubt
    found = register_affine(moving, fixed, moving_mask=moving_brain, fixed_mask=brain)
    assert off_mm(found.affine, truth) < 4


def test_an_alignment_that_passes_keeps_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """No search is made, and what the optimiser found is what comes out."""
    fixed, brain = lopsided(0)
    moving, _ = lopsided(1)
    moving = Volume(moving.data, rigid((4, -3, 5), (3, -5, 6)) @ moving.affine)
    monkeypatch.setattr(register, "MIN_PROMINENCE", 0.0)
    monkeypatch.setattr(register, "SURE_INFORMATION", 0.0)
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
def test_neither_much_information_nor_a_lead_is_a_doubt(
    monkeypatch: pytest.MonkeyPatch, information: float, ahead: float, doubted: bool
) -> None:
    fixed, brain = lopsided(0, 10.0)
    level = pyramid.build_level(fixed, fixed, brain, 10.0, None)
    task = register._make_task("rigid", level, level, np.zeros(3), 0, 1)
    plain = Registration(np.eye(4), 0.1, information)
    monkeypatch.setattr(register, "_find_optima", lambda *_: [np.eye(4)])
    monkeypatch.setattr(register, "best_starts", lambda *_, **__: [])
    monkeypatch.setattr(register, "lead", lambda *_: ahead)
    found = register._search_orientations(plain, task, [])
    assert bool(found.failure_reason) == doubted
    np.testing.assert_array_equal(found.affine, np.eye(4))


@pytest.mark.parametrize(
    ("ahead", "adopted", "doubted"),
    [
        # over the next best: of the header's own place, then of the one that is adopted
        ((1.10, 2.0), False, False),
        ((0.96, 2.0), False, False),
        ((0.80, 2.0), True, False),
        ((0.80, 1.1), True, True),
    ],
)
def test_a_template_is_turned_where_that_is_clearly_better(
    monkeypatch: pytest.MonkeyPatch, ahead: tuple[float, float], adopted: bool, doubted: bool
) -> None:
    fixed, brain = lopsided(0, 10.0)
    level = pyramid.build_level(fixed, fixed, brain, 10.0, None)
    task = register._make_task("similarity", level, level, np.zeros(3), 0, 1)
    turned = rigid((0, 0, 90), (0, 0, 0))
    plain = Registration(np.eye(4), 0.1, 0.2)
    leads = iter(ahead)
    monkeypatch.setattr(register, "_find_optima", lambda *_: [turned, np.eye(4)])
    monkeypatch.setattr(pyramid, "search", lambda *_, **__: np.eye(4))
    monkeypatch.setattr(pyramid, "information", lambda *_: 0.3)
    monkeypatch.setattr(register, "lead", lambda *_: next(leads))
    found = register._search_affine_orientations(plain, np.eye(4), task, [])
    np.testing.assert_allclose(found.affine, turned if adopted else np.eye(4))
    assert bool(found.failure_reason) == doubted
    assert bool(found.notes) == adopted


@pytest.mark.parametrize("shift", [(60, 0, 0), (0, -70, 0), (0, 0, 65)])
def test_brains_that_do_not_cover_each_other_are_doubted(shift: tuple[float, ...]) -> None:
    fixed, brain = lopsided(1, 10.0)
    volume = fixed.with_data(brain)
    astray = replace(Registration(np.eye(4), 0, 0), affine=rigid((0, 0, 0), shift))  # type: ignore[arg-type]
    assert register._with_overlap(astray, volume, volume).failure_reason
    assert (
        register._with_overlap(Registration(np.eye(4), 0, 0), volume, volume).failure_reason == ""
    )
