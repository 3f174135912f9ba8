"""Writing images so that a half-written one never stands under its final name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bids_msseg.errors import CannotCreateError
from bids_msseg.io import atomic


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Give a temporary name beside the target; rename it onto the target on success.

    Parameters
    ----------
    target : path
        Final name of the file. Missing folders are made.

    Yields
    ------
    path
        A hidden name in the same folder with the same ending, so that writers which go by the
        ending choose the same format. It is removed if the block raises.

    Raises
    ------
    CannotCreateError
        If the folder or the file cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic.replacing(target) as temporary:
            yield temporary
    except OSError as error:
        raise CannotCreateError(
            f"cannot write {target}: {error.strerror or error}",
            hint="make the folder writable and leave enough free space",
        ) from error
