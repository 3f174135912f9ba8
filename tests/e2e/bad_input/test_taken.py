"""Unusual but usable input: notes about it, and correct voxel values."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bids_msseg.imaging.conform import conform

from .images import big_endian, bomb, field, header, nifti, values, zipped
from .place import FLAIR, Place

WHOLE = values().astype(np.float32)


def _nan_inside() -> bytes:
    data = WHOLE.copy()
    data[0, 0, 0] = np.nan
    return nifti(data)


def _infinite_inside() -> bytes:
    data = WHOLE.copy()
    data[0, 0, 0] = -np.inf
    return nifti(data)


def _nan_expected() -> np.ndarray:
    data = WHOLE.copy()
    data[0, 0, 0] = 0
    return data


IMAGES: list[tuple[str, Callable[[], bytes], np.ndarray, str]] = [
    ("big-endian", big_endian, WHOLE, ""),
    (
        "byte order of one field only",
        lambda: field(nifti(), "sizeof_hdr", 348, order=">"),
        WHOLE,
        "",
    ),
    ("NIfTI-2", lambda: nifti(kind=nib.Nifti2Image), WHOLE, ""),
    ("scl_slope 0", header(scl_slope=0.0, scl_inter=5.0), WHOLE, ""),
    ("scl_slope NaN", header(scl_slope=float("nan"), scl_inter=5.0), WHOLE, ""),
    ("scl_slope -2", header(scl_slope=-2.0, scl_inter=5.0), 5 - 2 * WHOLE, ""),
    ("float64", lambda: nifti(WHOLE.astype(np.float64)), WHOLE, ""),
    ("uint64", lambda: nifti(WHOLE.astype(np.uint64)), WHOLE, ""),
    ("some NaN", _nan_inside, _nan_expected(), "1 voxels"),
    ("some infinite", _infinite_inside, _nan_expected(), "1 voxels"),
    ("4-D with one volume", lambda: nifti(values()[..., None]), WHOLE, "stored with 4 axes"),
    ("codes 0", header(qform_code=0, sform_code=0), WHOLE, "LEFT AND RIGHT CANNOT BE VERIFIED"),
    (
        "pixdim at odds with sform",
        header(pixdim=(1, 9, 9, 9, 0, 0, 0, 0), qform_code=0),
        WHOLE,
        "pixdim contradicts",
    ),
    ("qform moved by half a mm", header(qoffset=(-10.5, -9, -12)), WHOLE, ""),
]


@pytest.mark.parametrize(("name", "make", "expected", "says"), IMAGES, ids=[i[0] for i in IMAGES])
def test_unusual_image_is_read_correctly(
    name: str,
    make: Callable[[], bytes],
    expected: np.ndarray,
    says: str,
    tmp_path: Path,
    note_row: Callable[..., None],
) -> None:
    path = tmp_path / "x_FLAIR.nii.gz"
    path.write_bytes(zipped(make()))
    found = conform(path, tmp_path / "c.nii.gz", contrast="FLAIR")
    notes = "; ".join(found.notes)
    note_row(name, 0, notes or "taken, nothing to say", "")
    data = found.volume.data
    if name == "codes 0":
        data = data[::-1]  # without codes, NIfTI assumes that the first axis points left
    np.testing.assert_array_equal(data, expected)
    assert says in notes
    assert bool(says) == bool(notes)


def test_data_after_image_is_not_decompressed(tmp_path: Path) -> None:
    """1 GB of zeros after the last voxel is not read."""
    path = tmp_path / "x_FLAIR.nii.gz"
    path.write_bytes(zipped(nifti()) + bomb(100) * 10)
    found = conform(path, tmp_path / "c.nii.gz", contrast="FLAIR")
    np.testing.assert_array_equal(found.volume.data, WHOLE)


def test_highly_compressible_image_is_accepted(tmp_path: Path) -> None:
    """The compression ratio is not checked below 64 MB."""
    data = np.zeros((200, 200, 100), np.uint8)
    data[0, 0, 0] = 1
    path = tmp_path / "x_FLAIR.nii.gz"
    path.write_bytes(zipped(nifti(data)))
    assert path.stat().st_size * 300 < data.size
    assert conform(path, tmp_path / "c.nii.gz", contrast="FLAIR").volume.data.max() == 1


# Datasets that are accepted with a note


def _dry(place: Place, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    place.option("--dry-run")
    code = place.run()
    captured = capsys.readouterr()
    assert not place.out.exists()
    return code, captured.err + captured.out


def _version(version: object) -> Callable[[Place], object]:
    return lambda place: place.describe({"Name": "x", "BIDSVersion": version})


def _head() -> bytes:
    """Return an image of 100 x 100 x 99 mm, which may cover a brain."""
    data = np.arange(50 * 50 * 33) % 1000
    return zipped(nifti(data.astype(np.int16).reshape(50, 50, 33)))


def _two_runs(place: Place) -> None:
    place.remove()
    place.put("sub-01/anat/sub-01_run-1_FLAIR.nii.gz", b"junk")
    place.put("sub-01/anat/sub-01_run-2_FLAIR.nii.gz", _head())


def _two_good_runs(place: Place) -> None:
    place.put("sub-01/anat/sub-01_run-2_FLAIR.nii.gz", (place.bids / FLAIR).read_bytes())


def _pipe_beside(place: Place) -> None:
    place.put(FLAIR, _head())
    os.mkfifo(place.bids / "sub-01/anat/sub-01_run-2_FLAIR.nii.gz")


def _not_utf8(place: Place) -> None:
    folder = os.fsencode(place.bids / "sub-01/anat")
    Path(os.fsdecode(folder + b"/sub-01_acq-\xe9_FLAIR.nii.gz")).write_bytes(b"")


def _odd_names(place: Place) -> None:
    moved = place.root / "données d'été — 日本 <b>&amp;"
    place.bids.rename(moved)
    place.bids = moved
    place.positional[0] = str(moved)


def _unusual_participant(place: Place) -> None:
    (place.bids / "sub-ä b").mkdir()


def _loops(place: Place) -> None:
    (place.bids / "sub-01/ses-1").symlink_to("..")
    (place.bids / "sub-02").symlink_to("sub-02")
    (place.bids / "derivatives").symlink_to(".")


def _broken_sidecar(place: Place) -> None:
    place.put("FLAIR.json", b"[" * 100_000)
    place.put("sub-01/anat/sub-01_FLAIR.json", b"\xff")


def _junk_mask(place: Place) -> None:
    folder = place.root / "brains/sub-01/anat"
    folder.mkdir(parents=True)
    content = field(nifti(), "dim", 3, -5, 2, 9, 1, 1, 1, 1)
    (folder / "sub-01_desc-brain_mask.nii.gz").write_bytes(zipped(content))
    place.option("-d", f"brains={place.root / 'brains'}")


def _other_grid(place: Place) -> None:
    _junk_mask(place)
    content = nifti(np.ones((6, 6, 6), np.uint8))
    (place.root / "brains/sub-01/anat/sub-01_desc-brain_mask.nii.gz").write_bytes(zipped(content))


def _foreign_filter(place: Place) -> None:
    path = place.beside("filter.json", json.dumps({"bold": {"task": "rest"}}).encode())
    place.option("--bids-filter-file", path)


def _one_label_absent(place: Place) -> None:
    place.option("--participant-label", "01", "99")


def _no_json_skipped(place: Place) -> None:
    place.remove("dataset_description.json")
    place.option("--skip-bids-validation")


def _session_without_flair(place: Place) -> None:
    folder = place.bids / "sub-02/ses-1/anat"
    folder.mkdir(parents=True)
    (folder / "sub-02_ses-1_T1w.nii.gz").write_bytes(b"")


def _many(place: Place) -> None:
    shutil.copytree(place.bids / "sub-01", place.bids / "code/sub-01")


DATASETS: list[tuple[str, Callable[[Place], object], str]] = [
    ("BIDSVersion 9.9", _version("9.9"), "has BIDSVersion '9.9': the dataset is read as BIDS"),
    ("BIDSVersion a number", _version(1.1), "has BIDSVersion 1.1"),
    ("BIDSVersion a list", _version([]), "has BIDSVersion []"),
    ("no BIDSVersion", lambda place: place.describe({"Name": "x"}), "has no BIDSVersion"),
    (
        "a run that is damaged beside a good one",
        _two_runs,
        "run-2_FLAIR.nii.gz (12 mm³ per voxel) is used",
    ),
    (
        "duplicate runs",
        _two_good_runs,
        "2 FLAIR images: sub-01_FLAIR.nii.gz (12 mm³ per voxel) is used",
    ),
    ("a pipe beside an image", _pipe_beside, "(unreadable) is not"),
    ("a name that is not UTF-8", _not_utf8, "FLAIR: sub-01/anat/sub-01_FLAIR.nii.gz"),
    ("spaces, quotes and unicode in folders", _odd_names, "sub-01: would be processed"),
    ("a participant with spaces and unicode", _unusual_participant, "sub-01: would be processed"),
    ("folders that are links in circles", _loops, "sub-01: would be processed"),
    ("sidecars that are no JSON", _broken_sidecar, "FLAIR.json ignored: not JSON"),
    (
        "a brain mask with a damaged header",
        _junk_mask,
        "not on the grid of the FLAIR are not used",
    ),
    ("a brain mask on another grid", _other_grid, "not on the grid of the FLAIR are not used"),
    ("a filter file of another app", _foreign_filter, '"bold" is not a contrast of this app'),
    ("one of two participants not there", _one_label_absent, "sub-99 is not in the dataset"),
    ("no description, --skip-bids-validation", _no_json_skipped, "sub-01: would be processed"),
    (
        "a session without FLAIR beside a visit",
        _session_without_flair,
        "sub-02_ses-1: would be skipped: no FLAIR",
    ),
    ("participants below another folder", _many, "sub-01: would be processed"),
]


@pytest.mark.parametrize(("name", "spoil", "says"), DATASETS, ids=[one[0] for one in DATASETS])
def test_unusual_dataset_is_accepted_with_note(
    name: str,
    spoil: Callable[[Place], object],
    says: str,
    place: Place,
    capsys: pytest.CaptureFixture[str],
    note_row: Callable[..., None],
) -> None:
    spoil(place)
    code, printed = _dry(place, capsys)
    line = next((line for line in printed.splitlines() if says in line), "")
    note_row(name, code, line.strip().replace(str(place.root), "…"), "")
    assert code == 0, printed
    assert line, printed
    assert "sub-01: would be processed" in printed
    assert "Traceback" not in printed
