from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bids_msseg.errors import DataError, NoInputError
from bids_msseg.training.synthesis import label_maps, tissues
from bids_msseg.training.synthesis.label_maps import (
    LesionBank,
    find_label_maps,
    place_bank_lesions,
    prepare_label_map,
    read_lesion_bank,
)
from bids_msseg.training.synthesis.tissues import EXTRA_CEREBRAL, FIRST_EXTRA, Tissue


@pytest.fixture
def bank(tmp_path: Path) -> LesionBank:
    boxes = [np.ones((6, 6, 6), bool), np.ones((2, 3, 4), bool)]
    bits = [np.packbits(box) for box in boxes]
    path = tmp_path / "lesions.npz"
    np.savez(
        path,
        offset=np.array([[30, 30, 30], [10, 12, 14]], np.int16),
        shape=np.array([box.shape for box in boxes], np.int16),
        start=np.cumsum([0, *(len(part) for part in bits)]),
        bits=np.concatenate(bits),
        volume_mm3=np.array([box.sum() for box in boxes], np.int32),
        affine=np.diag([-1.0, 1, 1, 1]),
    )
    return read_lesion_bank(path)


def test_lesion_bank_masks_are_unpacked(bank: LesionBank) -> None:
    assert bank.mask(0).shape == (6, 6, 6)
    assert bank.mask(0).all()
    assert bank.mask(1).sum() == 24


def test_bank_lesions_lie_in_host_tissue_at_their_places(
    bank: LesionBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_maps, "LOAD_ML", (0.2, 0.2001))
    tissue = np.full((66, 66, 66), Tissue.WHITE, np.uint8)
    tissue[:, :, 34:] = Tissue.FLUID
    # tissue and bank have the same voxel grid
    rng = np.random.default_rng(0)
    draw = place_bank_lesions(rng, bank, tissue, bank.affine, np.eye(4), None)
    assert draw.voxels.size
    assert not draw.choroid.size
    places = np.stack(np.unravel_index(draw.voxels, tissue.shape), 1)
    assert (tissue.ravel()[draw.voxels] == Tissue.WHITE).all()
    sure = places[draw.fraction > 127]
    # the plane x = 0 is at voxel 0, so mirrored lesions lie outside the grid
    assert abs(np.median(sure, 0)[1:] - (33, 32)).max() < 12


def test_a_prepared_label_map_keeps_the_tissues_outside_the_brain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tissues, "LOAD_ML", (0.2, 0.5))
    x, y, z = np.indices((70, 70, 70)) - 34.5
    away = np.sqrt(x**2 + y**2 + z**2)
    labels = np.zeros(away.shape, np.int16)
    for radius, code in ((33, 507), (29, 515), (25, 24), (22, 3), (19, 2)):
        labels[away < radius] = code
    labels[28:33, 22:40, 30:36] = 4
    labels[37:42, 22:40, 30:36] = 43
    path = tmp_path / "ball_dseg.nii.gz"
    nib.save(nib.Nifti1Image(labels, np.eye(4)), path)
    ready = prepare_label_map(path, None, np.random.default_rng(0))
    kept = {EXTRA_CEREBRAL[code - FIRST_EXTRA] for code in np.unique(ready.tissue) if code >= 18}
    assert kept == {507, 515}
    empty = [draw for draw in ready.draws if not draw.voxels.size]
    assert len(empty) == label_maps.EMPTY_SETS
    sets = (label_maps.PARAMETRIC_SETS, label_maps.EMPTY_SETS, label_maps.BAND_SETS)
    assert len(ready.draws) == sum(sets)
    assert (ready.rim[np.isin(ready.tissue, (Tissue.WHITE, Tissue.CORTEX))] == 0).all()


def _map(path: Path, edge: float = 1.0) -> None:
    affine = np.diag([edge, 1, 1, 1])
    nib.save(nib.Nifti1Image(np.zeros((6, 6, 6), np.int16), affine), path)


def test_label_maps_are_found(tmp_path: Path) -> None:
    for name in ("sub-2_ses-1_dseg", "sub-2_ses-2_dseg", "head_dseg"):
        _map(tmp_path / f"{name}.nii.gz")
    _map(tmp_path / "other.nii.gz")
    assert [path.name for path in find_label_maps(tmp_path)] == [
        "head_dseg.nii.gz", "sub-2_ses-1_dseg.nii.gz", "sub-2_ses-2_dseg.nii.gz"
    ]  # fmt: skip


def test_a_folder_without_label_maps_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(NoInputError):
            find_label_maps(folder)


@pytest.mark.parametrize("kind", ["two of one name", "coarse voxels", "no image"])
def test_unusable_label_maps_are_refused(tmp_path: Path, kind: str) -> None:
    _map(tmp_path / "head_dseg.nii.gz", 2.0 if kind == "coarse voxels" else 1.0)
    if kind == "two of one name":
        _map(tmp_path / "head_dseg.nii")
    if kind == "no image":
        (tmp_path / "text_dseg.nii.gz").write_text("no image")
    with pytest.raises(DataError):
        find_label_maps(tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"PK no archive"])
def test_missing_or_invalid_lesion_bank_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "lesions.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(NoInputError if content is None else DataError):
        read_lesion_bank(path)
