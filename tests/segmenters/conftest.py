"""Images of a small synthetic visit and fake programs, for tests of other segmenters."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bids_msseg.imaging.volume import Volume
from bids_msseg.segmenters.images import VisitImages, write_images

AFFINE = np.eye(4)
AFFINE[:3, 3] = (-6, -5, -4)
BRAIN = np.s_[3:9, 3:9, 3:9]
LESION = np.s_[4:6, 5:7, 6:7]
"""Bright on the FLAIR: 4 voxels of 1 mm³."""


def flair() -> Volume:
    """A head of intensity 40 with a brain of 100 and a lesion of 200."""
    data = np.full((12, 12, 12), 40, np.float32)
    data[BRAIN] = 100
    data[LESION] = 200
    return Volume(data, AFFINE)


def brain() -> Volume:
    data = np.zeros((12, 12, 12), np.uint8)
    data[BRAIN] = 1
    return Volume(data, AFFINE)


def dark() -> Volume:
    """Another contrast on the grid of the FLAIR."""
    volume = flair()
    return volume.with_data(240 - volume.data)


@pytest.fixture
def images(tmp_path: Path) -> VisitImages:
    """FLAIR and T1w of the brain, in a folder whose name has a space."""
    contrasts = {"FLAIR": flair(), "T1w": dark()}
    return write_images(contrasts, brain(), {}, tmp_path / "a visit", whole_head=False)


@pytest.fixture
def flair_only(tmp_path: Path) -> VisitImages:
    return write_images({"FLAIR": flair()}, brain(), {}, tmp_path / "flair", whole_head=False)


BRIGHT = """
import sys

import nibabel as nib
import numpy as np

given, out, value, *more = sys.argv[1:]
image = nib.load(given)
found = (np.asarray(image.dataobj) > 150) * float(value)
nib.save(nib.Nifti1Image(found.astype(np.float32), image.affine), out)
for kind in more:
    print(kind)
    sys.exit(3)
"""


@pytest.fixture
def bright(tmp_path: Path) -> list[str]:
    """A program that marks bright voxels: ``IMAGE OUT VALUE [WORD]``; with a word it fails."""
    script = tmp_path / "bright.py"
    script.write_text(BRIGHT)
    return [sys.executable, str(script)]


@pytest.fixture
def make_program(tmp_path: Path) -> Callable[..., Path]:
    """Create a program ``environment/bin/NAME`` that runs a Python script."""

    def make(name: str, script: str) -> Path:
        folder = tmp_path / "environment" / "bin"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.py").write_text(script)
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{folder / name}.py" "$@"\n')
        program.chmod(0o755)
        return program

    return make
