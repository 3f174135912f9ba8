"""Segmentation of a stack by the networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bids_msseg.imaging.normalise import Stack
from bids_msseg.models import cascade
from bids_msseg.pipeline.segment import segment_stack

SHAPE = (24, 20, 22)


@pytest.mark.parametrize("fast", [False, True])
def test_anatomy_only_equals_anatomy_of_full_run(
    bright_model: Path, monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    brain = np.zeros(SHAPE, bool)
    brain[4:-4, 4:-4, 4:-4] = True
    images = np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float32)
    stack = Stack(images, (True, True, True), brain, np.eye(4))
    whole = segment_stack(stack, bright_model, device="cpu", fast=fast)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the second network was run")

    monkeypatch.setattr(cascade, "refine", refuse)
    found = segment_stack(stack, bright_model, device="cpu", fast=fast, anatomy_only=True)
    assert set(found) == {"anatomy"}
    np.testing.assert_array_equal(found["anatomy"].data, whole["anatomy"].data)
    np.testing.assert_array_equal(found["anatomy"].affine, whole["anatomy"].affine)
