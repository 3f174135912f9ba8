"""The pybids index: the paths that it covers, and the stored database."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bids.layout import BIDSLayout, BIDSLayoutIndexer

from bids_msseg.bids import index as index_module
from bids_msseg.bids.index import DATABASE_FILE, DATABASE_FOLDER, _ignore
from bids_msseg.bids.query import find_visits

MakeDataset = Callable[..., Path]


@pytest.fixture
def bids(make_dataset: MakeDataset) -> Path:
    return make_dataset(
        {f"sub-{n}/anat/sub-{n}_{c}.nii.gz": None for n in "123" for c in ("FLAIR", "T1w")}
    )


@pytest.fixture
def indexed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Record the participants of every new index."""
    calls: list[Any] = []
    build = index_module._build

    def spy(bids_dir: Path, participants: Any, database: Path | None = None) -> Any:
        calls.append(participants)
        return build(bids_dir, participants, database)

    monkeypatch.setattr(index_module, "_build", spy)
    return calls


def keys(bids: Path, **query: Any) -> list[str]:
    return [visit.key for visit in find_visits(bids, **query).visits]


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("/sub-01", True),
        ("/sub-02", False),
        ("/sub-01/anat", True),
        ("/sub-01/ses-a", True),
        ("/sub-01/ses-a/anat/x_FLAIR.nii", True),
        ("/sub-01/anat/x_FLAIR.nii.gz", True),
        ("/sub-01/anat/x_FLAIR.nii.gz/x_FLAIR.nii.gz", False),
        ("/sub-01/anat/x_FLAIR.json", False),
        ("/sub-01/func", False),
        ("/sub-01/func/x_bold.nii.gz", False),
        ("/derivatives", False),
        ("/derivatives/sub-01/anat/x_FLAIR.nii.gz", False),
        ("/sourcedata", False),
        ("/code", False),
        ("/.git", False),
        ("/sub-01/.heudiconv", False),
        ("/sub-011", False),
    ],
)
def test_index_covers_only_anat_images(path: str, seen: bool) -> None:
    assert (_ignore(["01"]).search(path) is None) == seen


def test_only_selected_participants_are_indexed(bids: Path, indexed: list[Any]) -> None:
    assert keys(bids, participants=["2"]) == ["sub-2"]
    assert indexed == [["2"]]


class TestStored:
    def test_index_is_built_once_and_then_reused(
        self, bids: Path, tmp_path: Path, indexed: list[Any]
    ) -> None:
        database = tmp_path / "db"
        all_visits = ["sub-1", "sub-2", "sub-3"]
        assert keys(bids, database_dir=database, participants=["2"]) == ["sub-2"]
        assert keys(bids, database_dir=database) == all_visits
        assert indexed == [None], "a stored index holds all visits, also after a first selection"
        assert sorted(p.name for p in (database / DATABASE_FOLDER).iterdir()) == [DATABASE_FILE]

    def test_new_file_is_seen(self, bids: Path, tmp_path: Path, make_image: Any) -> None:
        (bids / "sub-2/anat/sub-2_FLAIR.nii.gz").unlink()
        assert keys(bids, database_dir=tmp_path / "db") == ["sub-1", "sub-3"]
        time.sleep(0.02)
        make_image(bids / "sub-2/anat/sub-2_FLAIR.nii.gz")
        assert keys(bids, database_dir=tmp_path / "db") == ["sub-1", "sub-2", "sub-3"]

    def test_new_participant_is_seen(self, bids: Path, tmp_path: Path, make_image: Any) -> None:
        keys(bids, database_dir=tmp_path / "db")
        time.sleep(0.02)
        make_image(bids / "sub-4/anat/sub-4_FLAIR.nii.gz")
        assert keys(bids, database_dir=tmp_path / "db")[-1] == "sub-4"

    def test_index_of_another_dataset_is_rebuilt(
        self, bids: Path, make_dataset: MakeDataset, tmp_path: Path
    ) -> None:
        """pybids itself would return the files of the first dataset."""
        other = make_dataset({"sub-9/anat/sub-9_FLAIR.nii.gz": None}, name="other")
        keys(other, database_dir=tmp_path / "db")
        assert keys(bids, database_dir=tmp_path / "db") == ["sub-1", "sub-2", "sub-3"]

    def test_index_of_another_program_is_read_but_not_changed(
        self, bids: Path, tmp_path: Path, indexed: list[Any]
    ) -> None:
        database = tmp_path / "db"
        BIDSLayout(bids, validate=False, database_path=database)
        before = (database / DATABASE_FILE).read_bytes()
        assert keys(bids, database_dir=database) == ["sub-1", "sub-2", "sub-3"]
        assert indexed == []
        os.utime(database / DATABASE_FILE, (0, 0))
        assert keys(bids, database_dir=database) == ["sub-1", "sub-2", "sub-3"]
        assert (database / DATABASE_FILE).read_bytes() == before

    def test_damaged_database_is_rebuilt(self, bids: Path, tmp_path: Path) -> None:
        own = tmp_path / "db" / DATABASE_FOLDER
        own.mkdir(parents=True)
        (own / DATABASE_FILE).write_bytes(b"SQLite format 3\0 and then nothing")
        assert keys(bids, database_dir=tmp_path / "db") == ["sub-1", "sub-2", "sub-3"]

    def test_incomplete_database_is_rebuilt(self, bids: Path, tmp_path: Path) -> None:
        """A killed pybids process leaves a database without rows."""
        own = tmp_path / "db" / DATABASE_FOLDER
        own.mkdir(parents=True)
        with sqlite3.connect(own / DATABASE_FILE) as connection:
            connection.execute("CREATE TABLE layout_info (root TEXT)")
        assert keys(bids, database_dir=tmp_path / "db") == ["sub-1", "sub-2", "sub-3"]

    def test_unwritable_database_folder_gives_a_note(self, bids: Path, tmp_path: Path) -> None:
        (tmp_path / "db").write_text("a file where the folder should be")
        found = find_visits(bids, database_dir=tmp_path / "db")
        assert len(found.visits) == 3
        assert "could not be stored" in found.notes[0]

    def test_symlink_to_dataset_reuses_stored_index(
        self, bids: Path, tmp_path: Path, indexed: list[Any]
    ) -> None:
        (tmp_path / "link").symlink_to(bids)
        keys(bids, database_dir=tmp_path / "db")
        visits = find_visits(tmp_path / "link", database_dir=tmp_path / "db").visits
        assert indexed == [None]
        assert visits[0].flair.is_relative_to(tmp_path / "link")

    def test_concurrent_jobs_share_database_folder(self, bids: Path, tmp_path: Path) -> None:
        code = (
            "import sys; from pathlib import Path; from bids_msseg.bids.query import find_visits\n"
            "found = find_visits(Path(sys.argv[1]), database_dir=Path(sys.argv[2]))\n"
            "assert len(found.visits) == 3 and not found.notes, found"
        )
        command = [sys.executable, "-c", code, str(bids), str(tmp_path / "db")]
        jobs = [subprocess.Popen(command) for _ in range(3)]
        assert [job.wait(60) for job in jobs] == [0, 0, 0]


def test_index_agrees_with_plain_pybids(bids: Path) -> None:
    indexer = BIDSLayoutIndexer(index_metadata=False)
    layout = BIDSLayout(bids, indexer=indexer)
    plain = layout.get(return_type="filename", suffix="FLAIR", extension=[".nii", ".nii.gz"])
    assert [str(visit.flair) for visit in find_visits(bids).visits] == plain
