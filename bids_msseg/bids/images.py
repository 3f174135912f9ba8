"""Images of a dataset by visit and role, after the filters and ``.bidsignore``."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

from bids.layout import Query

from bids_msseg.bids.filters import SHORT_NAMES, Filters
from bids_msseg.bids.ignore import FILE, IgnoreRules
from bids_msseg.bids.index import AnatIndex
from bids_msseg.bids.visit import CONTRASTS, name_entities

VisitId = tuple[str, str | None]
MAX_NAMES: Final = 8
_SWITCHES: Final = ("regex_search",)
"""Keys of a filter that are not entities."""


@dataclass(frozen=True, slots=True)
class DatasetImages:
    """Images of a dataset by contrast and visit, and why others are left out."""

    chosen: Mapping[str, Mapping[VisitId, Sequence[Path]]]  # after filters and .bidsignore
    filtered_out: frozenset[VisitId]  # visits without a FLAIR after the filters
    ignored: Mapping[VisitId, Sequence[Path]]  # FLAIR images in .bidsignore
    unmatched: Mapping[str, tuple[str, ...]]  # filter entries that match no image, by contrast
    notes: tuple[str, ...]

    @classmethod
    def query(
        cls, index: AnatIndex, filters: Filters, rules: IgnoreRules, visits: Container[VisitId]
    ) -> DatasetImages:
        """Query the index; apply filters (UsageError if invalid) and ``.bidsignore``."""
        by_contrast = filters.by_contrast
        images = {
            contrast: index.images(contrast, by_contrast[contrast]) for contrast in CONTRASTS
        }
        all_flairs = index.images("FLAIR", {}) if by_contrast["FLAIR"] else images["FLAIR"]
        unmatched = {
            contrast: unmatched_entries(index, contrast, by_contrast[contrast])
            for contrast in CONTRASTS
        }
        split = {contrast: _split(by_visit, index, rules) for contrast, by_visit in images.items()}
        left_out = [
            path.name
            for _, out in split.values()
            for visit, paths in out.items()
            if visit in visits
            for path in paths
        ]
        notes = [f"filter file: {note}" for note in chain(*unmatched.values())]
        if left_out:
            notes.append(f"{FILE} excludes {listing(list(dict.fromkeys(left_out)))}")
        return cls(
            {contrast: inside for contrast, (inside, _) in split.items()},
            frozenset(all_flairs.keys() - images["FLAIR"].keys()),
            split["FLAIR"][1],
            unmatched,
            tuple(notes),
        )

    def of(self, visit: VisitId) -> dict[str, list[Path]]:
        """Return the images of a visit by role; no file has more than one role."""
        images = {contrast: self.chosen[contrast].get(visit, ()) for contrast in CONTRASTS}
        # a filter decides before the suffix: a FLAIR named acq-FLAIR_T2w is not a T2w
        roles: dict[Path, str] = {}
        for matches_suffix in (False, True):
            for contrast, paths in images.items():
                for path in paths:
                    if (name_entities(path.name)[1] == contrast) == matches_suffix:
                        roles.setdefault(path, contrast)
        return {
            contrast: [path for path in paths if roles[path] == contrast]
            for contrast, paths in images.items()
        }


def _split(
    images: Mapping[VisitId, Sequence[Path]], index: AnatIndex, rules: IgnoreRules
) -> tuple[dict[VisitId, list[Path]], dict[VisitId, list[Path]]]:
    """Separate the images from those that ``.bidsignore`` excludes."""
    inside: dict[VisitId, list[Path]] = {}
    out: dict[VisitId, list[Path]] = {}
    for visit, paths in images.items():
        for path in paths:
            ignored = rules.ignores(path.relative_to(index.bids_dir).as_posix())
            (out if ignored else inside).setdefault(visit, []).append(path)
    return inside, out


def unmatched_entries(
    index: AnatIndex, contrast: str, entries: Mapping[str, Any]
) -> tuple[str, ...]:
    """Describe the filter entries that match no image, and the existing values, if any."""
    reported = []
    for entity, value in entries.items():
        if entity in _SWITCHES:
            continue
        base = {name: entries[name] for name in ("suffix", *_SWITCHES) if name in entries}
        if entity == "suffix":
            base["suffix"] = Query.ANY
        candidates = [path for paths in index.images(contrast, base).values() for path in paths]
        for item in value if isinstance(value, list) else [value]:
            if candidates and not index.images(contrast, {**base, entity: item}):
                available = listing(sorted({_value_of(path, entity) for path in candidates}))
                reported.append(
                    f"no {contrast} has {entity} {_shown(item)}; available: {available}"
                )
    if (
        not reported
        and entries
        and index.images(contrast, {})
        and not index.images(contrast, entries)
    ):
        reported.append(f"no {contrast} matches all entries of its filter")
    return tuple(reported)


def _value_of(path: Path, entity: str) -> str:
    entities, suffix = name_entities(path.name)
    file_parts = {
        "suffix": suffix,
        "extension": path.name[path.name.find(".") :],
        "datatype": path.parent.name,
    }
    return file_parts.get(entity) or entities.get(SHORT_NAMES.get(entity, entity), "none")


def _shown(value: object) -> str:
    if isinstance(value, Query):
        return "none" if value == Query.NONE else "any"
    return repr(value)


def listing(items: Sequence[str], separator: str = ", ") -> str:
    """Join the first :data:`MAX_NAMES` names and count the others."""
    more = f"{separator}and {len(items) - MAX_NAMES} more" if len(items) > MAX_NAMES else ""
    return separator.join(items[:MAX_NAMES]) + more
