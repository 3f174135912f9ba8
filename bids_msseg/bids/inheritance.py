"""Metadata of an image by the inheritance principle of BIDS 1.11.1.

pybids opens the sidecars of a whole dataset; this module opens only those of used images.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from bids_msseg.bids.files import read_small
from bids_msseg.bids.visit import name_entities


class SidecarReader:
    """Reader of image metadata that lists every folder and reads every sidecar at most once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._list = lru_cache(maxsize=None)(_list_sidecars)
        self._load = lru_cache(maxsize=None)(_load_json)

    def read(self, image: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Merge the sidecars of an image; also return a note for each unreadable one."""
        metadata: dict[str, Any] = {}
        notes: list[str] = []
        for sidecar in self.applicable(image):
            content, problem = self._load(sidecar)
            metadata.update(content)
            if problem:
                notes.append(f"{sidecar.relative_to(self._root).as_posix()} ignored: {problem}")
        return metadata, tuple(notes)

    def applicable(self, image: Path) -> list[Path]:
        """Return the sidecars that apply to an image, the most general one first."""
        entities, suffix = name_entities(image.name)
        image_entities = set(entities.items())
        sidecars: list[Path] = []
        for parent in reversed(image.relative_to(self._root).parents):
            level = [
                (len(pairs), path)
                for path, pairs, kind in self._list(self._root / parent)
                if kind == suffix and pairs <= image_entities
            ]
            sidecars.extend(path for _, path in sorted(level))
        return sidecars


def _list_sidecars(folder: Path) -> list[tuple[Path, frozenset[tuple[str, str]], str]]:
    sidecars = []
    for path in folder.glob("*.json"):
        entities, suffix = name_entities(path.name)
        sidecars.append((path, frozenset(entities.items()), suffix))
    return sidecars


def _load_json(path: Path) -> tuple[dict[str, Any], str]:
    try:
        content = json.loads(read_small(path).decode("utf-8-sig"))
    except OSError as error:
        return {}, f"cannot be read ({error.strerror})"
    except (ValueError, RecursionError):
        return {}, "not JSON"
    return (content, "") if isinstance(content, dict) else ({}, "not a JSON object")
