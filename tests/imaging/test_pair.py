"""Alignment of two visits on a common grid."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bids_msseg.errors import DataError
from bids_msseg.imaging.registration import visit_alignment as pair
from bids_msseg.imaging.registration.result import Registration
from bids_msseg.imaging.registration.visit_alignment import (
    Alignment,
    align_visits,
    build_common_grid,
)
from bids_msseg.imaging.volume import Volume

from .conftest import head, rigid

Visits = tuple[Volume, np.ndarray, Volume, np.ndarray]
MOVED = rigid((4.0, -3.0, 6.0), (5.0, -4.0, 7.0))


def off_mm(one: np.ndarray, other: np.ndarray) -> float:
    """Largest distance in mm between eight points mapped by two affines."""
    corners = np.array([[x, y, z, 1.0] for x in (-60, 60) for y in (-70, 70) for z in (-60, 60)])
    return float(np.linalg.norm((corners @ (one - other).T)[:, :3], axis=1).max())


@pytest.fixture(scope="module")
def visits() -> Visits:
    """The same head in two positions and with two slice thicknesses."""
    earlier, earlier_brain = head("FLAIR", (3.0, 3.0, 4.0))
    later, later_brain = head("FLAIR", (3.0, 3.0, 3.0), transform=MOVED)
    return earlier, earlier_brain, later, later_brain


@pytest.fixture(scope="module")
def alignment(visits: Visits) -> Alignment:
    earlier, earlier_brain, later, later_brain = visits
    return align_visits(earlier, later, earlier_brain=earlier_brain, later_brain=later_brain)


def test_align_visits_recovers_rigid_motion(alignment: Alignment) -> None:
    assert off_mm(alignment.affine, MOVED) < 0.8
    assert alignment.disagreement_mm < 1
    assert alignment.notes == ()
    assert alignment.failure_reason == ""
    turn = alignment.affine[:3, :3]
    assert np.allclose(turn @ turn.T, np.eye(3), atol=1e-12)


def test_exchanging_the_visits_inverts_the_transform(alignment: Alignment, visits: Visits) -> None:
    earlier, earlier_brain, later, later_brain = visits
    back = align_visits(later, earlier, earlier_brain=later_brain, later_brain=earlier_brain)
    assert off_mm(back.affine @ alignment.affine, np.eye(4)) < 1e-9


def test_alignment_is_split_into_two_half_transforms() -> None:
    one = Alignment(MOVED, 0.0)
    assert np.allclose(one.to_earlier @ np.linalg.inv(one.to_later), MOVED)
    assert np.allclose(one.to_earlier @ one.to_earlier, MOVED)


def test_common_grid_aligns_images_of_both_visits(visits: Visits) -> None:
    earlier, earlier_brain, later, later_brain = visits
    alignment = Alignment(MOVED, 0.0)
    met = build_common_grid(
        alignment, earlier.with_data(earlier_brain), later.with_data(later_brain)
    )
    assert np.array_equal(np.diag(met.affine), [1, 1, 1, 1])
    one, other = met.flair(earlier, later=False), met.flair(later, later=True)
    inside = met.inside
    assert np.corrcoef(one[inside], other[inside])[0, 1] > 0.9
    still = build_common_grid(Alignment(np.eye(4), 0.0), earlier.with_data(earlier_brain),
                 later.with_data(later_brain))  # fmt: skip
    apart = (still.flair(earlier, later=False), still.flair(later, later=True))
    assert np.corrcoef(*(image[still.inside] for image in apart))[0, 1] < 0.8


def test_common_grid_does_not_depend_on_visit_order(visits: Visits) -> None:
    earlier, earlier_brain, later, later_brain = visits
    brains = earlier.with_data(earlier_brain), later.with_data(later_brain)
    there = build_common_grid(Alignment(MOVED, 0.0), *brains)
    back = build_common_grid(Alignment(np.linalg.inv(MOVED), 0.0), *brains[::-1])
    assert np.allclose(there.affine, back.affine)
    assert there.inside.shape == back.inside.shape
    assert np.mean(there.inside != back.inside) < 1e-5


def test_non_overlapping_brains_are_refused(visits: Visits) -> None:
    earlier, earlier_brain, later, later_brain = visits
    far = np.eye(4)
    far[0, 3] = 120
    with pytest.raises(DataError, match="different parts of the brain"):
        build_common_grid(
            Alignment(far, 0), earlier.with_data(earlier_brain), later.with_data(later_brain)
        )


GOOD = Registration(np.eye(4), 0.4, 0.6)


@pytest.mark.parametrize(
    ("there", "back", "apart", "doubted"),
    [
        (GOOD, GOOD, 0.1, False),
        (GOOD, GOOD, 4.9, False),
        (GOOD, GOOD, 5.1, True),
        (replace(GOOD, failure_reason="little information"), GOOD, 0.1, True),
        (GOOD, replace(GOOD, failure_reason="little information"), 0.1, True),
        (replace(GOOD, affine=rigid((0, 0, 120), (9, 8, 7))), GOOD, 0.1, False),
        (GOOD, replace(GOOD, affine=rigid((170, 0, 0), (0, 0, 0))), 0.1, True),
        (GOOD, replace(GOOD, affine=rigid((0, 180, 0), (0, 0, 0))), 0.1, True),
    ],
)
def test_failed_or_inconsistent_registration_sets_failure_reason(
    monkeypatch: pytest.MonkeyPatch,
    visits: Visits,
    there: Registration,
    back: Registration,
    apart: float,
    doubted: bool,
) -> None:
    earlier, earlier_brain, later, later_brain = visits
    results = iter((there, back))
    monkeypatch.setattr(pair, "register_rigid", lambda *_, **__: next(results))
    monkeypatch.setattr(pair, "_rms_distance", lambda *_: apart)
    found = align_visits(earlier, later, earlier_brain=earlier_brain, later_brain=later_brain)
    assert bool(found.failure_reason) == doubted
    assert np.isfinite(found.affine).all()
