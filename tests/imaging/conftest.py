"""Synthetic head on any grid, and a writer of NIfTI files."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from bids_msseg.imaging.volume import Affine, Volume

# intensities of air, skull, scalp, fluid, grey matter, white matter
CONTRASTS = {
    "T1w": (0, 10, 500, 80, 300, 420),
    "T2w": (0, 10, 350, 900, 420, 300),
    "FLAIR": (0, 10, 250, 60, 420, 330),
}


def tissue(points: NDArray[np.float64]) -> NDArray[np.int64]:
    """Tissue at world positions in mm, shape (N, 3): 0 air, then as in ``CONTRASTS``."""
    x, y, z = points.T
    radius = np.sqrt((x / 68) ** 2 + (y / 84) ** 2 + (z / 66) ** 2)
    # folds: the border between white and grey matter is wavy
    folds = 0.05 * np.sin(x / 5.0) * np.sin(y / 6.0) + 0.04 * np.cos(z / 5.5 + x / 9.0)
    kind = np.zeros(len(points), int)
    kind[radius < 1.22] = 2
    kind[radius < 1.12] = 1
    kind[radius < 1.04] = 3
    kind[radius < 1.0] = 4
    kind[radius < 0.82 + folds] = 5
    nuclei = ((np.abs(x) - 16) / 9) ** 2 + ((y + 5) / 20) ** 2 + (z / 11) ** 2 < 1
    horns = ((np.abs(x) - 9) / 6) ** 2 + ((y - 4) / 32) ** 2 + ((z - 14) / 8) ** 2 < 1
    kind[nuclei] = 4
    kind[horns] = 3
    return kind


def world(shape: tuple[int, int, int], affine: Affine) -> NDArray[np.float64]:
    """World positions of all voxel centres, shape (N, 3)."""
    index = np.indices(shape).reshape(3, -1).T.astype(float)
    return index @ affine[:3, :3].T + affine[:3, 3]


def grid(spacing: tuple[float, float, float]) -> tuple[tuple[int, int, int], Affine]:
    """Grid of 190 x 230 x 180 mm about the origin."""
    size = np.array([190.0, 230.0, 180.0])
    x, y, z = (int(n) for n in np.ceil(size / spacing))
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -(np.array([x, y, z]) - 1) / 2 * spacing
    return (x, y, z), affine


def head(
    contrast: str,
    spacing: tuple[float, float, float] = (3.0, 3.0, 3.0),
    *,
    transform: Affine | None = None,
    stripped: bool = False,
) -> tuple[Volume, NDArray[np.bool_]]:
    """A head and its brain mask; ``transform`` maps the image's world to the head's."""
    shape, affine = grid(spacing)
    points = world(shape, affine)
    if transform is not None:
        points = points @ transform[:3, :3].T + transform[:3, 3]
    kind = tissue(points).reshape(shape)
    values = np.array(CONTRASTS[contrast], np.float32)
    brain = kind >= 3
    data = values[kind].astype(float)
    # multiplicative texture fixed to the tissue, and a little noise where there is signal
    data *= 1 + 0.04 * np.sin(points @ (0.11, 0.13, 0.17)).reshape(shape)
    data += np.random.default_rng(5).normal(0, 3, shape) * (kind > 0)
    data = np.maximum(data, 1) * (kind > 0)
    if stripped:
        data = np.where(brain, data, 0)
    return Volume(data.astype(np.float32), affine), brain


def rigid(degrees: tuple[float, float, float], shift: tuple[float, float, float]) -> Affine:
    """Rotation about x, y, z and a translation."""
    affine = np.eye(4)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        turn = np.eye(4)
        a, b = [k for k in range(3) if k != axis]
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        affine = turn @ affine
    affine[:3, 3] = shift
    return affine


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def make_nifti(tmp_path: Path) -> Callable[..., Path]:
    """Write a NIfTI file of noise, or of given voxels, with header fields set as asked."""

    def write(
        name: str = "image.nii.gz",
        *,
        data: NDArray[Any] | None = None,
        affine: Affine | None = None,
        codes: tuple[int, int] = (1, 1),
        kind: Callable[..., Any] = nib.Nifti1Image,
        **fields: Any,
    ) -> Path:
        if data is None:
            data = np.random.default_rng(0).integers(0, 99, (8, 9, 10)).astype(np.int16)
        image = kind(data, np.diag([1.0, 1.5, 2.0, 1.0]) if affine is None else affine)
        image.header.set_data_dtype(data.dtype)
        image.set_qform(image.affine, codes[0])
        image.set_sform(image.affine, codes[1])
        for field, value in fields.items():
            image.header[field] = value
        path = tmp_path / name
        nib.save(image, path)
        return path

    return write
