"""The pybids index of a dataset, restricted to NIfTI files in ``anat`` folders.

By default, pybids visits all folders, opens every sidecar and follows circular links.
"""

from __future__ import annotations

import os
import re
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bids.exceptions import PyBIDSError
from bids.layout import BIDSLayout, BIDSLayoutIndexer
from sqlalchemy.exc import SQLAlchemyError

from bids_msseg.bids.visit import LABEL
from bids_msseg.errors import InvalidDatasetError, UsageError
from bids_msseg.io.atomic import publish

DATABASE_FILE = "layout_index.sqlite"
DATABASE_FOLDER = "bids_msseg"
_ANAT_IMAGE = re.compile(rf"sub-({LABEL})/(?:ses-({LABEL})/)?anat/[^/]+\.nii(?:\.gz)?")


@dataclass(frozen=True, slots=True)
class AnatFolder:
    """The ``anat`` folder of one visit, which may not exist; labels have no prefix."""

    participant: str
    session: str | None
    path: Path


def list_participants(bids_dir: Path) -> list[str]:
    """Return the sorted valid labels of the participant folders, without ``sub-``."""
    return _labels(bids_dir, "sub")


def list_visits(bids_dir: Path, participants: Iterable[str]) -> list[AnatFolder]:
    """Return one entry for each visit folder, with or without images."""
    folders = []
    for participant in participants:
        top = bids_dir / f"sub-{participant}"
        sessions = _labels(top, "ses")
        if not sessions or _is_folder(top / "anat"):
            folders.append(AnatFolder(participant, None, top / "anat"))
        folders.extend(
            AnatFolder(participant, session, top / f"ses-{session}" / "anat")
            for session in sessions
        )
    return folders


def _labels(folder: Path, entity: str) -> list[str]:
    pattern = re.compile(rf"{entity}-({LABEL})")
    matches = ((path, pattern.fullmatch(path.name)) for path in folder.glob(f"{entity}-*"))
    return sorted(match[1] for path, match in matches if match and path.is_dir())


def may_read(path: Path) -> bool:
    """Return whether this user may read a file, or list a folder and open its content."""
    mode = os.R_OK | (os.X_OK if path.is_dir() else 0)
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except PermissionError:
        return False


class AnatIndex:
    """Query interface to the anatomical images of one dataset; paths start with ``bids_dir``."""

    def __init__(self, layout: Any, bids_dir: Path) -> None:
        self._layout = layout
        self.bids_dir = bids_dir

    def images(
        self, suffix: str, filters: Mapping[str, Any]
    ) -> dict[tuple[str, str | None], list[Path]]:
        """Return the images by (participant, session); UsageError if pybids refuses a filter."""
        query = {"suffix": suffix, "extension": [".nii", ".nii.gz"], "datatype": "anat", **filters}
        try:
            names = self._layout.get(return_type="filename", **query)
        except (ValueError, TypeError, SQLAlchemyError, re.error) as error:
            raise UsageError(
                f"pybids rejects the filter for {suffix}: {str(error).partition(chr(10))[0]}",
                hint="use the entity names of pybids, for example acquisition, run, session",
            ) from error
        by_visit: dict[tuple[str, str | None], list[Path]] = {}
        for name in names:
            relative = Path(name).relative_to(self._layout.root).as_posix()
            match = _ANAT_IMAGE.fullmatch(relative)
            if match:
                by_visit.setdefault((match[1], match[2]), []).append(self.bids_dir / relative)
        return by_visit


@contextmanager
def open_index(
    bids_dir: Path,
    *,
    participants: Sequence[str] | None,
    folders: Sequence[AnatFolder],
    database_dir: Path | None = None,
) -> Iterator[tuple[AnatIndex, tuple[str, ...]]]:
    """Index a dataset, or open a stored index that is newer than ``folders``.

    An index of another program is only read. Raises InvalidDatasetError if pybids fails.
    """
    notes: tuple[str, ...] = ()
    try:
        if database_dir is None:
            layout = _build(bids_dir, participants)
        else:
            layout, notes = _open_stored(bids_dir, database_dir, folders)
    except (PyBIDSError, SQLAlchemyError, ValueError, AttributeError) as error:
        raise InvalidDatasetError(
            f"pybids cannot index {bids_dir}: {error}",
            hint="check dataset_description.json with bids-validator",
        ) from error
    try:
        yield AnatIndex(layout, bids_dir), notes
    finally:
        layout.connection_manager.session.close()
        layout.connection_manager.engine.dispose()


def _build(
    bids_dir: Path, participants: Sequence[str] | None, database: Path | None = None
) -> Any:
    ignored = [_ignore(participants)]
    try:
        return _layout(bids_dir, ignored, database)
    except PermissionError:
        # pybids stops at the first unreadable folder; other visits do not need that folder
        if database is not None:
            (database / DATABASE_FILE).unlink(missing_ok=True)
        unreadable = _unreadable_folders(bids_dir, participants)
        return _layout(bids_dir, [*ignored, *unreadable], database)


def _layout(bids_dir: Path, ignored: Sequence[re.Pattern[str]], database: Path | None) -> Any:
    indexer = BIDSLayoutIndexer(index_metadata=False, ignore=list(ignored))
    return BIDSLayout(bids_dir, validate=False, indexer=indexer, database_path=database)


def _unreadable_folders(
    bids_dir: Path, participants: Sequence[str] | None
) -> list[re.Pattern[str]]:
    """Return patterns that match the folders which this user may not read."""
    labels = list_participants(bids_dir) if participants is None else participants
    anat = [folder.path for folder in list_visits(bids_dir, labels)]
    parents = {parent for path in anat for parent in (path, *path.parents)}
    inside = (path for path in parents if bids_dir in path.parents and _is_folder(path))
    names = (path.relative_to(bids_dir).as_posix() for path in inside if not may_read(path))
    return [re.compile(rf"^/{re.escape(name)}(?:/|\Z)") for name in names]


def _ignore(participants: Sequence[str] | None) -> re.Pattern[str]:
    """Return a pattern of paths to ignore; the limited depth stops circular links."""
    labels = LABEL if participants is None else "|".join(map(re.escape, participants))
    # SQLite holds no name that is not UTF-8, and BIDS allows none
    image = r"/[^/\ud800-\udfff]+\.nii(?:\.gz)?"
    indexed = rf"/sub-(?:{labels})(?:/ses-{LABEL})?(?:/anat(?:{image})?)?"
    return re.compile(rf"^(?!{indexed}\Z)")


def _open_stored(
    bids_dir: Path, database_dir: Path, folders: Sequence[AnatFolder]
) -> tuple[Any, tuple[str, ...]]:
    app_folder = database_dir / DATABASE_FOLDER
    for folder in (database_dir, app_folder):
        if _is_up_to_date(folder / DATABASE_FILE, bids_dir, folders):
            return BIDSLayout(database_path=folder, validate=False), ()
    try:
        _store(bids_dir, app_folder)
    except OSError as error:
        note = f"the index could not be stored in {database_dir} ({error.strerror})"
        return _build(bids_dir, None), (note,)
    return BIDSLayout(database_path=app_folder, validate=False), ()


def _store(bids_dir: Path, target: Path) -> None:
    """Build the index in a temporary folder, then move it: pybids accepts a partial one."""
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target, prefix=".building-") as scratch:
        layout = _build(bids_dir, None, Path(scratch))
        layout.connection_manager.session.close()
        layout.connection_manager.engine.dispose()
        publish(Path(scratch) / DATABASE_FILE, target / DATABASE_FILE)


def _is_up_to_date(database: Path, bids_dir: Path, folders: Sequence[AnatFolder]) -> bool:
    """Return whether a stored index is of this dataset and newer than its folders."""
    root = _stored_root(database)
    if root is None or root.resolve() != bids_dir.resolve():
        return False
    written = database.stat().st_mtime_ns
    parents = {parent for folder in folders for parent in (folder.path, *folder.path.parents)}
    watched = {path for path in parents if path == bids_dir or bids_dir in path.parents}
    return all(path.stat().st_mtime_ns <= written for path in watched if path.exists())


def _stored_root(database: Path) -> Path | None:
    """Return the dataset of a pybids database, to which pybids would silently switch; or None."""
    if not database.is_file():
        return None
    try:
        uri = f"{database.resolve().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            row = connection.execute("SELECT root FROM layout_info").fetchone()
    except sqlite3.Error:
        return None
    return Path(row[0]) if row else None
