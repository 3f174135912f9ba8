"""Small BIDS trees."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

MakeImage = Callable[..., Path]
MakeDataset = Callable[..., Path]


@pytest.fixture(scope="session")
def make_image() -> MakeImage:
    """Write a NIfTI image with voxels of a given size; by default it is as large as a head."""
    contents: dict[tuple[Any, ...], bytes] = {}

    def make(
        path: Path,
        spacing: tuple[float, float, float] = (1, 1, 1),
        dtype: str = "uint8",
        *,
        extent_mm: float = 96.0,
    ) -> Path:
        key = (*spacing, dtype, extent_mm, path.suffix)
        if key not in contents:
            data = np.zeros([int(np.ceil(extent_mm / edge)) for edge in spacing], dtype)
            data[0, 0, 0] = 1
            image = nib.Nifti1Image(data, np.diag([*spacing, 1.0]))
            image.header.set_xyzt_units("mm", "sec")
            content = bytes(image.to_bytes())
            contents[key] = gzip.compress(content, 1, mtime=0) if path.suffix == ".gz" else content
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents[key])
        return path

    return make


@pytest.fixture
def make_dataset(tmp_path: Path, make_image: MakeImage) -> MakeDataset:
    """Write a dataset from {path below it: voxel size, JSON content, text or None}.

    A tuple makes an image, a mapping a JSON file, text a text file, None an empty file.
    """

    def make(files: Mapping[str, Any], *, name: str = "raw", description: Any = "default") -> Path:
        root = tmp_path / name
        root.mkdir(parents=True, exist_ok=True)
        if description == "default":
            description = {"Name": "A study", "BIDSVersion": "1.10.1", "DatasetType": "raw"}
        if description is not None:
            (root / "dataset_description.json").write_text(json.dumps(description))
        for relative, content in files.items():
            _write(root / relative, content, make_image)
        return root

    return make


def _write(path: Path, content: Any, make_image: MakeImage) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, tuple):
        make_image(path, content)
    elif isinstance(content, Mapping):
        path.write_text(json.dumps(content))
    else:
        path.write_text(content or "")
