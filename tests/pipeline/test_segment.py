"""Segmentation of a stack by the networks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bids_msseg.imaging.normalise import Stack
from bids_msseg.models import cascade, checkpoint
from bids_msseg.models.checkpoint import load_cascade
from bids_msseg.pipeline.segment import segment_stack

SHAPE = (24, 20, 22)


@pytest.mark.parametrize("fast", [False, True])
def test_anatomy_only_equals_anatomy_of_full_run(
    bright_model: Path, monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    brain = np.zeros(SHAPE, bool)
    brain[4:-4, 4:-4, 4:-4] = True
    images = np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float32)
    stack = Stack(images, (True, True, True), brain, np.eye(4), 1.0)
    whole = segment_stack(stack, bright_model, device="cpu", fast=fast)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the second network was run")

    monkeypatch.setattr(cascade, "refine", refuse)
    found = segment_stack(stack, bright_model, device="cpu", fast=fast, anatomy_only=True)
    assert set(found) == {"anatomy"}
    np.testing.assert_array_equal(found["anatomy"].data, whole["anatomy"].data)
    np.testing.assert_array_equal(found["anatomy"].affine, whole["anatomy"].affine)


def test_slice_weight_lowers_probability_of_thick_slices(
    bright_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load_cascade(bright_model)
    weighted = replace(whole, point=replace(whole.point, slice_weight=0.2))
    monkeypatch.setattr(checkpoint, "load_cascade", lambda _: weighted)
    brain = np.ones(SHAPE, bool)
    images = np.zeros((3, *SHAPE), np.float32)
    images[0, 10:14, 10:14, 10:14] = 3
    thin = Stack(images, (True, False, False), brain, np.eye(4), 1.0)
    maps = [
        segment_stack(stack, bright_model, device="cpu")["probability"].data
        for stack in (thin, replace(thin, slice_mm=6.0))
    ]
    inside = (maps[0] > 0.01) & (maps[0] < 0.99)
    assert inside.any()
    logits = [np.log(values[inside] / (1 - values[inside])) for values in maps]
    np.testing.assert_allclose(logits[0] - logits[1], 1.0, atol=1e-3)
