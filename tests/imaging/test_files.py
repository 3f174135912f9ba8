"""Files are written atomically."""

from __future__ import annotations

from pathlib import Path

import pytest

from bids_msseg.errors import CannotCreateError
from bids_msseg.imaging.files import replacing


def test_target_appears_only_when_complete(tmp_path: Path) -> None:
    target = tmp_path / "new" / "image.nii.gz"
    with replacing(target) as temporary:
        assert temporary.name.endswith(".nii.gz")
        assert temporary.parent == target.parent
        temporary.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert [p.name for p in target.parent.iterdir()] == ["image.nii.gz"]


def test_failure_keeps_old_file_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def write_half() -> None:
        with replacing(target) as temporary:
            temporary.write_text("half")
            raise ValueError("broke off")

    with pytest.raises(ValueError, match="broke off"):
        write_half()
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_file_in_place_of_folder_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with (
        pytest.raises(CannotCreateError) as caught,
        replacing(tmp_path / "out" / "a.txt") as temporary,
    ):
        temporary.write_text("x")
    assert str(tmp_path / "out") in caught.value.message
