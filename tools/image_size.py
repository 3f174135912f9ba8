"""Print the size of a container image and its largest folders; runs inside it, on Python only.

usage: docker run --rm -i --entrypoint python IMAGE - < tools/image_size.py
"""

from __future__ import annotations

import os
import sysconfig
from collections import Counter
from pathlib import Path

MB = 1e6
LISTED = 14


def sizes(root: Path, *, depth: int) -> Counter[str]:
    """Sum the file sizes of each folder ``depth`` levels under ``root``.

    Hard links count once.
    """
    totals: Counter[str] = Counter()
    counted: set[tuple[int, int]] = set()
    device = root.lstat().st_dev
    for folder, folders, files in os.walk(root):
        parent = Path(folder)
        folders[:] = [f for f in folders if (parent / f).lstat().st_dev == device]
        for name in files:
            status = (parent / name).lstat()
            if (status.st_dev, status.st_ino) not in counted:
                counted.add((status.st_dev, status.st_ino))
                parts = (parent / name).relative_to(root).parts
                totals["/".join(parts[:depth])] += status.st_size
    return totals


def table(title: str, totals: Counter[str]) -> None:
    """Print the largest entries and the sum of all."""
    print(f"{title}: {sum(totals.values()) / MB:.0f} MB")
    for name, size in totals.most_common(LISTED):
        print(f"  {size / MB:7.0f} MB  {name}")


def main() -> None:
    """Print the sizes of the whole image, then of its Python packages."""
    table("unpacked", sizes(Path("/"), depth=2))
    table("Python packages", sizes(Path(sysconfig.get_path("purelib")), depth=1))


if __name__ == "__main__":
    main()
