"""Choice of the template folder, and copying of a container's templates."""

from __future__ import annotations

from pathlib import Path

import pytest

from bids_msseg.template_home import prepare_template_home

NAME = "tpl-X/tpl-X_res-01_T1w.nii.gz"


@pytest.fixture
def carried(tmp_path: Path) -> Path:
    """A template folder with a read-only file, as in container images."""
    file = tmp_path / "opt" / NAME
    file.parent.mkdir(parents=True)
    file.write_bytes(b"image")
    file.chmod(0o444)
    return tmp_path / "opt"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def test_container_templates_are_copied_and_writable(carried: Path, work: Path) -> None:
    home = prepare_template_home(work, {"BIDS_MSSEG_TEMPLATES": str(carried)})
    assert home == work / "templateflow"
    assert (home / NAME).read_bytes() == b"image"
    assert (home / NAME).stat().st_mode & 0o200
    assert list(work.iterdir()) == [home]


def test_existing_templates_in_work_folder_are_kept(carried: Path, work: Path) -> None:
    (work / "templateflow").mkdir()
    (work / "templateflow/fetched").write_text("image")
    prepare_template_home(work, {"BIDS_MSSEG_TEMPLATES": str(carried)})
    assert [path.name for path in (work / "templateflow").iterdir()] == ["fetched"]


def test_templates_copied_by_concurrent_run_are_kept(
    carried: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(self: Path, target: Path) -> Path:
        target.mkdir()
        (target / "theirs").write_text("image")
        raise OSError(39, "Directory not empty", str(self))

    monkeypatch.setattr(Path, "rename", late)
    home = prepare_template_home(work, {"BIDS_MSSEG_TEMPLATES": str(carried)})
    assert home is not None
    assert [path.name for path in home.iterdir()] == ["theirs"]
    assert list(work.iterdir()) == [home]


@pytest.mark.parametrize("kind", ["empty", "missing"])
def test_empty_or_missing_container_templates_are_not_copied(
    kind: str, tmp_path: Path, work: Path
) -> None:
    folder = tmp_path / "opt"
    if kind == "empty":
        folder.mkdir()
    home = prepare_template_home(work, {"BIDS_MSSEG_TEMPLATES": str(folder)})
    assert home == work / "templateflow"
    assert list(work.iterdir()) == []


def test_templateflow_home_overrides_container_templates(carried: Path, work: Path) -> None:
    environment = {"BIDS_MSSEG_TEMPLATES": str(carried), "TEMPLATEFLOW_HOME": "/templates"}
    assert prepare_template_home(work, environment) is None
    assert list(work.iterdir()) == []


def test_container_templates_override_cache_in_home(
    carried: Path, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results must not depend on whether a container has access to the user's home."""
    (tmp_path / ".cache/templateflow").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert prepare_template_home(work, {}) is None
    home = prepare_template_home(work, {"BIDS_MSSEG_TEMPLATES": str(carried)})
    assert home == work / "templateflow"
