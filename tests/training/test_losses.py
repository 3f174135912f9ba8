from __future__ import annotations

import pytest
import torch

from bids_msseg.models.anatomy import CLASSES
from bids_msseg.training.losses import anatomy_loss, lesion_loss


def test_lesion_loss_of_correct_prediction_is_zero() -> None:
    share = torch.zeros(1, 1, 8, 8, 8)
    share[..., 2:5, 2:5, 2:5] = 1
    loss, dice = lesion_loss(100 * (2 * share - 1), share)
    assert float(loss) == pytest.approx(0, abs=1e-5)
    assert float(dice) == pytest.approx(1, abs=1e-5)


def test_lesion_loss_rises_with_confidence_of_miss() -> None:
    share = torch.ones(1, 1, 8, 8, 8)
    costs = [float(lesion_loss(torch.full_like(share, value), share)[0]) for value in (-4, -1, 0)]
    assert costs == sorted(costs, reverse=True)


def test_dice_of_lesions_counts_voxels_that_are_lesion_for_at_least_half() -> None:
    share = torch.zeros(1, 1, 8, 8, 8)
    share[..., 0], share[..., 1] = 0.5, 0.4
    majority = 200 * (share >= 0.5).float() - 100
    assert float(lesion_loss(majority, share)[1]) == pytest.approx(1, abs=1e-5)
    every = 200 * (share > 0).float() - 100
    # 64 of 128 voxels, and ten on both sides
    assert float(lesion_loss(every, share)[1]) == pytest.approx(138 / 202, abs=1e-5)


def test_anatomy_loss_ignores_samples_without_ground_truth() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, CLASSES, 4, 4, 4, requires_grad=True)
    shares = torch.zeros(2, CLASSES, 4, 4, 4)
    assert float(anatomy_loss(logits, shares)) == 0
    shares[0, 3] = 1
    loss = anatomy_loss(logits, shares)
    loss.backward()
    assert logits.grad is not None
    assert float(logits.grad[0].abs().sum()) > 0
    assert float(logits.grad[1].abs().sum()) == 0


def test_anatomy_loss_of_correct_prediction_is_zero() -> None:
    shares = torch.zeros(1, CLASSES, 4, 4, 4)
    shares[:, 5, :2], shares[:, 4, 2:] = 1, 1
    assert float(anatomy_loss(100 * shares, shares)) == pytest.approx(0, abs=1e-4)


def test_anatomy_loss_sums_probabilities_of_partial_label() -> None:
    logits = torch.zeros(1, CLASSES, 2, 2, 2)
    logits[:, 4] = 1.0
    shares = torch.zeros_like(logits)
    shares[:, 3:6] = 1
    probability = torch.softmax(logits, 1)[0, 3:6, 0, 0, 0].sum()
    assert float(anatomy_loss(logits, shares)) == pytest.approx(
        -float(probability.log()), abs=1e-5
    )
    certain = 100 * (torch.arange(CLASSES) == 4).float().view(1, -1, 1, 1, 1).expand_as(logits)
    assert float(anatomy_loss(certain, shares)) == pytest.approx(0, abs=1e-5)


def test_partial_and_unknown_voxels_have_finite_gradients() -> None:
    logits = torch.randn(2, CLASSES, 4, 4, 4, requires_grad=True)
    shares = torch.zeros(2, CLASSES, 4, 4, 4)
    shares[0, 3, :2], shares[0, 4:7, 2:] = 1, 1
    anatomy_loss(logits, shares).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert not logits.grad[1].any()
