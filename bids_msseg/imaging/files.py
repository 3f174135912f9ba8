"""Atomic writing of images: an incomplete file never has the final name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bids_msseg.errors import CannotCreateError
from bids_msseg.io import atomic


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside the target; rename it to the target on success.

    The temporary name is hidden and has the same extension, which determines the format. Missing
    folders are created. The file is removed if the block raises. Raises CannotCreateError if the
    folder or the file cannot be written.
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
