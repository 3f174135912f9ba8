"""The archive of intermediate results from the steps before delineation."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from bids_msseg.bids.paths import intermediate_path
from bids_msseg.nodes.intermediate import (
    MANIFEST,
    is_usable,
    stored_outputs,
    stored_steps,
    write_archive,
)

VERSIONS = {"bids_msseg": "1", "torch": "2"}
PLACE = "sub-01/anat/sub-01_space-FLAIR_desc-preproc_FLAIR.nii.gz"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """OUT with one published image and the archive of three steps."""
    out, work = tmp_path / "out", tmp_path / "work"
    archive = intermediate_path(out, "01", None)
    for path in (out / PLACE, archive, work / "mask.nii.gz"):
        path.parent.mkdir(parents=True, exist_ok=True)
    (work / "mask.nii.gz").write_bytes(b"voxels")
    (out / PLACE).write_bytes(b"FLAIR")
    steps: dict[str, dict[str, Any]] = {
        "brain": {"how": "stripped", "notes": ["a note"], "seconds": 0.5},
        "segment": {"probability_file": str(work / "mask.nii.gz"), "notes": []},
        "on_flair_FLAIR": {"out_file": str(out / PLACE)},
    }
    write_archive(
        archive,
        steps,
        published={"on_flair_FLAIR.out_file": PLACE},
        fingerprint="f",
        versions=VERSIONS,
    )
    return out


def usable(out: Path, fingerprint: str = "f", versions: Mapping[str, str] = VERSIONS) -> bool:
    archive = intermediate_path(out, "01", None)
    return is_usable(archive, out, fingerprint=fingerprint, versions=versions)


def test_archive_returns_stored_outputs(out: Path, tmp_path: Path) -> None:
    archive = intermediate_path(out, "01", None)
    assert usable(out)
    assert stored_steps(archive) == {"brain", "segment", "on_flair_FLAIR"}
    expected = {"how": "stripped", "notes": ["a note"], "seconds": 0.5}
    assert stored_outputs(archive, "brain", tmp_path) == expected
    found = stored_outputs(archive, "segment", tmp_path)
    assert found == {"probability_file": str(tmp_path / "mask.nii.gz"), "notes": []}
    assert (tmp_path / "mask.nii.gz").read_bytes() == b"voxels"


def test_published_files_are_not_stored_twice(out: Path, tmp_path: Path) -> None:
    archive = intermediate_path(out, "01", None)
    with zipfile.ZipFile(archive) as opened:
        assert set(opened.namelist()) == {MANIFEST, "segment/mask.nii.gz"}
    found = stored_outputs(archive, "on_flair_FLAIR", tmp_path)
    assert found == {"out_file": str(out / PLACE)}


def test_archive_of_other_inputs_or_versions_is_not_usable(out: Path) -> None:
    assert not usable(out, "g")
    assert not usable(out, versions={**VERSIONS, "torch": "3"})
    assert not usable(out, versions={"bids_msseg": "1"})


def _replace(out: Path) -> None:
    (out / PLACE).write_bytes(b"another FLAIR")


def _delete_published_file(out: Path) -> None:
    (out / PLACE).unlink()


def _no_archive(out: Path) -> None:
    intermediate_path(out, "01", None).unlink()


def _cut_off(out: Path) -> None:
    path = intermediate_path(out, "01", None)
    path.write_bytes(path.read_bytes()[:-40])


def _changed_byte(out: Path) -> None:
    path = intermediate_path(out, "01", None)
    path.write_bytes(path.read_bytes().replace(b"voxels", b"voxelz", 1))


def _other_content(text: str) -> Callable[[Path], None]:
    def write(out: Path) -> None:
        with zipfile.ZipFile(intermediate_path(out, "01", None), "w") as archive:
            archive.writestr(MANIFEST, text)

    return write


@pytest.mark.parametrize(
    "spoil",
    [
        _replace,
        _delete_published_file,
        _no_archive,
        _cut_off,
        _changed_byte,
        _other_content("{"),
        _other_content("[]"),
        _other_content("{}"),
        _other_content(json.dumps({"fingerprint": "f", "versions": VERSIONS})),
        _other_content(json.dumps({"fingerprint": "f", "versions": VERSIONS, "steps": [1]})),
        _other_content(
            json.dumps(
                {
                    "fingerprint": "f",
                    "versions": VERSIONS,
                    "steps": {"segment": {"probability_file": {"member": "segment/gone"}}},
                }
            )
        ),
    ],
)
def test_damaged_or_outdated_archive_is_not_usable(
    out: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(out)
    assert not usable(out)
