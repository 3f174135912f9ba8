"""Grids, atlases and other extras that the options request for a visit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bids_msseg.app.extras import find_extras
from bids_msseg.app.selection import _with_brain_masks
from bids_msseg.bids.derivatives import NO_EXTRAS, Extras
from bids_msseg.bids.visit import Visit
from bids_msseg.config import RunConfig
from bids_msseg.spaces import AtlasChoice, OutputSpace

MakeConfig = Callable[..., RunConfig]


@pytest.fixture
def configure(tmp_path: Path) -> MakeConfig:
    def make(**options: Any) -> RunConfig:
        given = {"bids_dir": tmp_path / "raw", "output_dir": tmp_path / "out"}
        return RunConfig.from_options({**given, "levels": ["participant"], **options})

    return make


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


WITH_T1W = Visit("01", "2", Path("f.nii.gz"), Path("t.nii.gz"))
FLAIR_ONLY = Visit("01", "2", Path("f.nii.gz"))


def test_find_extras_without_options_is_empty(configure: MakeConfig) -> None:
    extras, notes = find_extras(configure(), WITH_T1W)
    assert (extras, notes) == (NO_EXTRAS, ())


@pytest.mark.parametrize(
    ("option", "expected"),
    [("fill_lesions", Extras(filled=True)), ("lesion_roi", Extras(roi=True))],
)
def test_filling_and_roi_options(configure: MakeConfig, option: str, expected: Extras) -> None:
    assert find_extras(configure(**{option: True}), WITH_T1W) == (expected, ())


@pytest.mark.parametrize(("filled", "notes"), [(False, 1), (True, 2)])
def test_other_segmenter_has_no_anatomy(configure: MakeConfig, filled: bool, notes: int) -> None:
    config = configure(segmenter="samseg", fill_lesions=filled)
    extras, found_notes = find_extras(config, WITH_T1W)
    assert (extras, len(found_notes)) == (Extras(anatomy=False), notes)


def test_grid_file_of_visit_is_found(configure: MakeConfig, tmp_path: Path) -> None:
    own = touch(tmp_path / "sub-01_qsm.nii.gz")
    texts = [f"{tmp_path}/sub-{{subject}}_qsm.nii.gz", f"{own.parent}/sub-02_dwi.nii.gz", "FLAIR"]
    extras, notes = find_extras(configure(output_spaces=texts), FLAIR_ONLY)
    assert extras.grids == (OutputSpace("qsm", None, str(own)),)
    assert len(notes) == 1


def test_grid_in_t1w_space_requires_t1w(configure: MakeConfig, tmp_path: Path) -> None:
    config = configure(output_spaces=[f"{touch(tmp_path / 'qsm.nii')}:T1w"])
    assert [one.world for one in find_extras(config, WITH_T1W)[0].grids] == ["T1w"]
    extras, notes = find_extras(config, FLAIR_ONLY)
    assert (extras, len(notes)) == (NO_EXTRAS, 1)


def test_shared_atlases_are_unchanged(configure: MakeConfig, tmp_path: Path) -> None:
    path = touch(tmp_path / "tracts.nii.gz")
    texts = ["sides", "Schaefer2018", f"{path}:FLAIR"]
    extras, notes = find_extras(configure(atlas=texts), FLAIR_ONLY)
    assert extras.atlases == tuple(map(AtlasChoice.parse, texts))
    assert notes == ()


@pytest.mark.parametrize("session", ["2", None])
def test_atlas_file_of_visit_is_found(
    configure: MakeConfig, tmp_path: Path, session: str | None
) -> None:
    path = touch(tmp_path / "sub-01/ses-2/parts.nii.gz")
    pattern = f"{tmp_path}/sub-{{subject}}/ses-{{session}}/parts.nii.gz:T1w"
    visit = Visit("01", session, Path("f.nii.gz"), Path("t.nii.gz"))
    extras, notes = find_extras(configure(atlas=[pattern]), visit)
    assert [one.source for one in extras.atlases] == ([str(path)] if session else [])
    assert len(notes) == (0 if session else 1)


def test_atlas_in_t1w_space_requires_t1w(configure: MakeConfig, tmp_path: Path) -> None:
    path = touch(tmp_path / "parts.nii.gz")
    config = configure(atlas=[f"{path}:T1w", "sides"])
    extras, notes = find_extras(config, FLAIR_ONLY)
    assert [one.name for one in extras.atlases] == ["sides"]
    assert len(notes) == 1


@pytest.mark.parametrize(
    ("subjects", "used", "n_notes"),
    [
        (["sub-01_ses-2", "sub-01"], "sub-01_ses-2", 0),
        (["sub-01"], "sub-01", 1),
        (["sub-02", "sub-01_ses-1"], None, 1),
    ],
)
def test_freesurfer_segmentation_of_session_is_preferred(
    configure: MakeConfig, tmp_path: Path, subjects: list[str], used: str | None, n_notes: int
) -> None:
    folder = tmp_path / "freesurfer"
    for name in subjects:
        touch(folder / name / "mri/aparc+aseg.mgz")
    config = configure(atlas=["aparc+aseg"], derivatives=[str(folder)])
    extras, notes = find_extras(config, WITH_T1W)
    expected = [] if used is None else [str(folder / used / "mri/aparc+aseg.mgz")]
    assert [one.source for one in extras.atlases] == expected
    assert {(one.kind, one.space, one.name) for one in extras.atlases} <= {
        ("file", "T1w", "aparcaseg")
    }
    assert len(notes) == n_notes


def test_brain_masks_are_not_searched_in_freesurfer_folder() -> None:
    folders = {"freesurfer": Path("/fs"), "brains": Path("/brains")}
    assert _with_brain_masks(folders) == {"brains": Path("/brains")}
