"""Atomic writing of images: an incomplete file never has the final name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bids_msseg.errors import convert_os_error
from bids_msseg.io import atomic


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a temporary path with the same extension; rename it to the target on success."""
    hint = "make the folder writable and leave enough free space"
    with convert_os_error(f"cannot write {target}", hint=hint):
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic.replacing(target) as temporary:
            yield temporary
