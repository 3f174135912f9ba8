from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from bids_msseg.cascade.augment import SubImage
from bids_msseg.cascade.augmentation import artefacts
from bids_msseg.cascade.augmentation.artefacts import slices
from bids_msseg.cascade.augmentation.sample import to_signal


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(
    extent=st.integers(2, 70),
    spacing=st.floats(1, 16),
    covered=st.floats(0.2, 1),
    phase=st.floats(0, 0.999),
)
@example(extent=2, spacing=6.0, covered=0.25, phase=0.0)
def test_slices_keep_constants_and_never_overshoot(
    extent: int, spacing: float, covered: float, phase: float
) -> None:
    matrix = slices(extent, spacing, covered, phase)
    assert matrix.shape == (extent, extent)
    torch.testing.assert_close(matrix.sum(1), torch.ones(extent), rtol=0, atol=1e-5)
    assert float(matrix.min()) >= 0


def test_slices_of_one_voxel_are_the_image_and_thicker_ones_average() -> None:
    torch.testing.assert_close(slices(9, 1, 1, 0), torch.eye(9), rtol=0, atol=1e-6)
    matrix = slices(8, 4, 1, 0)
    # two slices; beyond their middles the nearest one goes on
    torch.testing.assert_close(matrix[0], torch.tensor([0.25] * 4 + [0.0] * 4))
    torch.testing.assert_close(matrix[7], torch.tensor([0.0] * 4 + [0.25] * 4))
    torch.testing.assert_close(matrix[3, :4], torch.full((4,), 0.25 * 5 / 8))
    ramp = torch.arange(32.0)
    torch.testing.assert_close((slices(32, 4, 0.5, 0) @ ramp)[2:-2], ramp[2:-2])


def test_thick_slices_spare_visits_that_have_them(make_sample) -> None:
    thick = make_sample(12, thin=False)
    assert artefacts.ThickSlices()(thick, _rng()) is thick
    sample = make_sample(12)
    done = artefacts.ThickSlices(axes="z")(sample, _rng())
    assert not torch.equal(done.maps, sample.maps)
    assert torch.equal(done.brain, sample.brain)
    # nothing is mixed across slices' own planes
    swapped = replace(sample, images=sample.images.flip(1), maps=sample.maps.flip(1))
    torch.testing.assert_close(
        artefacts.ThickSlices(axes="z")(swapped, _rng()).images.flip(1), done.images
    )


def test_thick_slices_of_the_others_leave_flair_and_truth(make_sample) -> None:
    sample = make_sample(12)
    done = artefacts.ThickSlices(which="others")(sample, _rng())
    assert torch.equal(done.images[0], sample.images[0])
    assert torch.equal(done.maps, sample.maps)
    assert not torch.equal(done.images[1], sample.images[1])
    assert not torch.equal(done.images[2], sample.images[2])


def test_the_bias_field_is_smooth_and_positive(make_sample) -> None:
    flat = replace(make_sample(17), images=torch.zeros(3, 17, 17, 17))
    field = to_signal(artefacts.BiasField((0.2, 0.2))(flat, _rng()).images)
    assert float(field.min()) > 0
    assert float(field.std()) > 0.02
    # knots lie eight voxels apart
    assert float(field.log().diff(dim=1).abs().max()) < 0.2 * 8 / 8


def test_ghosts_are_shifted_copies_of_the_brain(make_sample) -> None:
    sample = make_sample(12)
    brain = torch.zeros(12, 12, 12)
    brain[2:4] = 1
    sample = replace(sample, brain=brain, images=torch.zeros(3, 12, 12, 12))
    done = artefacts.Ghosting((0.1, 0.1), copies=1, axes="x")(sample, _rng()).images
    changed = (done != 0).any(-1).any(-1)
    assert all(row.nonzero().ravel().tolist() == [8, 9] for row in changed)
    # a tenth of the signal is 0.4 standard deviations
    torch.testing.assert_close(done[:, 8].abs(), torch.full((3, 12, 12), 0.4))


def test_motion_leaves_the_background_and_what_is_the_same_along_the_axis(make_sample) -> None:
    sample = make_sample(16)
    done = artefacts.Motion((2, 2), axes="x")(sample, _rng())
    outside = sample.brain < 0.5
    assert torch.equal(done.images[:, outside], sample.images[:, outside])
    assert not torch.equal(done.images, sample.images)
    flat = replace(sample, images=torch.ones(3, 16, 16, 16), brain=torch.ones(16, 16, 16))
    torch.testing.assert_close(
        artefacts.Motion((2, 2))(flat, _rng()).images, flat.images, rtol=0, atol=1e-4
    )


def test_ringing_takes_high_waves_and_leaves_low_ones(make_sample) -> None:
    sample = make_sample(16)
    waves = torch.arange(16.0) * 2 * torch.pi / 16
    low, high = torch.cos(2 * waves), torch.cos(7 * waves)
    step = artefacts.GibbsRinging((0.5, 0.5), axes="y")
    images = (low + high).view(16, 1).expand(3, 16, 16, 16).contiguous()
    done = step(replace(sample, images=images), _rng()).images
    torch.testing.assert_close(done, low.view(16, 1).expand(3, 16, 16, 16), rtol=0, atol=1e-4)


def test_jitter_moves_other_contrasts_against_flair_and_the_maps(make_sample) -> None:
    sample = make_sample(12)
    done = artefacts.RegistrationJitter(mm=2, degrees=2)(sample, _rng())
    assert torch.equal(done.images[0], sample.images[0])
    assert done.maps is sample.maps
    moves = [done.images[channel] - sample.images[channel] for channel in (1, 2)]
    assert all(float(move.abs().max()) > 0.1 for move in moves)
    still = artefacts.RegistrationJitter(mm=0, degrees=0)(sample, _rng())
    torch.testing.assert_close(still.images, sample.images, rtol=0, atol=2e-5)


def _ball(edge: int = 31, radius: float = 10) -> SubImage:
    middle = edge // 2
    distance = np.sqrt(sum((axis - middle) ** 2 for axis in np.indices((edge,) * 3)))
    brain = torch.from_numpy((distance <= radius).astype(np.float32))
    return SubImage(torch.zeros(3, edge, edge, edge), torch.ones(3), brain, brain[None])


def test_a_brain_mask_grows_or_shrinks_by_no_more_than_asked() -> None:
    sample, sizes = _ball(), []
    for seed in range(30):
        done = artefacts.BrainMaskFaults(mm=3, bites=0)(sample, _rng(seed))
        assert set(done.brain.unique().tolist()) == {0, 1}
        line = done.brain[:, 15, 15].sum()
        sizes.append(int(line - 21) // 2)
        assert done.images is sample.images
        assert done.maps is sample.maps
        more, less = done.brain > sample.brain, done.brain < sample.brain
        assert not (more.any() and less.any())
    # a cube takes more than its half edge off where a ball is steep
    assert set(sizes) >= {-2, 0, 1, 2, 3}
    assert max(sizes) == 3


def test_bites_are_balls_taken_from_the_surface() -> None:
    sample, lost = _ball(), []
    for seed in range(20):
        done = artefacts.BrainMaskFaults(mm=0, bites=1, bite_mm=(4, 4))(sample, _rng(seed))
        assert (done.brain <= sample.brain).all()
        assert done.brain[15, 15, 15] == 1
        gone = (sample.brain - done.brain).nonzero().float()
        lost.append(len(gone))
        if len(gone):
            assert float(torch.cdist(gone, gone).max()) <= 8
    assert 0 in lost
    assert max(lost) > 60


def test_an_empty_brain_mask_can_be_spoiled_no_further() -> None:
    sample = replace(_ball(9), brain=torch.zeros(9, 9, 9))
    assert not artefacts.BrainMaskFaults()(sample, _rng()).brain.any()


def test_contrasts_are_dropped_by_chance_and_flair_never(make_sample) -> None:
    sample = make_sample(4)
    assert artefacts.ContrastDropout(1, 1)(sample, _rng()).present.tolist() == [1, 0, 0]
    assert artefacts.ContrastDropout(0, 1)(sample, _rng()).present.tolist() == [1, 1, 0]
    rng = _rng()
    kept = [artefacts.ContrastDropout()(sample, rng).present for _ in range(2000)]
    assert torch.stack(kept).mean(0).tolist() == pytest.approx([1, 0.75, 0.65], abs=0.04)


def test_lesions_fade_in_all_contrasts_and_nothing_else_does(make_sample) -> None:
    sample = make_sample(14)
    lesion = sample.maps[0] == 1
    done = [artefacts.FadeLesions(0.6)(sample, _rng(seed)).images for seed in range(10)]
    assert all(torch.equal(one[:, ~lesion], sample.images[:, ~lesion]) for one in done)
    assert 1 <= sum(not torch.equal(one, sample.images) for one in done) <= 9
