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
    found: Counter[str] = Counter()
    seen: set[tuple[int, int]] = set()
    device = root.lstat().st_dev
    for folder, folders, files in os.walk(root):
        here = Path(folder)
        folders[:] = [f for f in folders if (here / f).lstat().st_dev == device]
        for name in files:
            about = (here / name).lstat()
            if (about.st_dev, about.st_ino) not in seen:
                seen.add((about.st_dev, about.st_ino))
                parts = (here / name).relative_to(root).parts
                found["/".join(parts[:depth])] += about.st_size
    return found


def table(title: str, found: Counter[str]) -> None:
    """Print the largest entries and the sum of all."""
    print(f"{title}: {sum(found.values()) / MB:.0f} MB")
    for name, size in found.most_common(LISTED):
        print(f"  {size / MB:7.0f} MB  {name}")


def main() -> None:
    """Print the sizes of the whole image, then of its Python packages."""
    table("unpacked", sizes(Path("/"), depth=2))
    table("Python packages", sizes(Path(sysconfig.get_path("purelib")), depth=1))


if __name__ == "__main__":
    main()
