"""Run one node in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nipype.pipeline.engine import Node

from bids_msseg.imaging.registration.itk import write_itk_affine
from bids_msseg.imaging.volume import Volume, save_volume
from bids_msseg.nodes.base import Step

Run = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a step and return its outputs."""
    monkeypatch.setenv("NIPYPE_NO_ET", "1")

    def go(step: type[Step], **inputs: Any) -> Any:
        given = {key: str(v) if isinstance(v, Path) else v for key, v in inputs.items()}
        name = f"{step.__name__}_{len(list(tmp_path.glob('step*')))}"
        folder = tmp_path / f"step_{name}"
        return Node(step(**given), name=name, base_dir=str(folder)).run().outputs

    return go


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Write an array as NIfTI."""

    def write(name: str, data: np.ndarray, affine: np.ndarray) -> Path:
        path = tmp_path / f"{name}.nii.gz"
        save_volume(Volume(data, affine), path)
        return path

    return write


@pytest.fixture
def save_affine(tmp_path: Path) -> Callable[[str, np.ndarray], Path]:
    """Write a transform."""

    def write(name: str, affine: np.ndarray) -> Path:
        path = tmp_path / f"{name}.txt"
        write_itk_affine(affine, path)
        return path

    return write
