"""Visits and skipped visits, without slow imports: worker processes unpickle visits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CONTRASTS = ("FLAIR", "T1w", "T2w")
"""BIDS suffixes of the contrasts that the cascade can use; the first one is needed."""

LABEL = "[0-9a-zA-Z+]+"
"""Pattern of the value of an entity."""

PREFIX_ENTITIES = ("acq", "ce", "rec", "run")
"""Entities of the FLAIR that stay in the names of outputs, in the order of the schema."""

IDENTITY_COLUMNS: Mapping[str, Mapping[str, str]] = {
    "participant_id": {"Description": "Participant"},
    "session_id": {"Description": "Session; n/a where the participant has none"},
}
"""Columns that name a visit in a table, and their description."""


@dataclass(frozen=True, slots=True)
class Visit:
    """One participant at one session, with the images to use; labels have no prefix."""

    participant: str
    session: str | None
    flair: Path
    t1w: Path | None = None
    t2w: Path | None = None
    entities: Mapping[str, str] = field(default_factory=dict)  # of the FLAIR except sub and ses
    brain_mask: Path | None = None  # on the FLAIR grid
    metadata: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # sidecar by contrast
    notes: tuple[str, ...] = ()
    problem: str = ""  # why the visit will fail, if known
    lesion_mask: Path | None = None  # replaces the networks
    exclude_masks: tuple[Path, ...] = ()

    @property
    def key(self) -> str:
        """Name of the visit: ``sub-<label>[_ses-<label>]``, unique within a dataset."""
        return visit_key(self.participant, self.session)

    @property
    def prefix(self) -> str:
        """Start of the name of every output: the key and acq, ce, rec, run of the FLAIR."""
        parts = [
            f"{name}-{self.entities[name]}" for name in PREFIX_ENTITIES if name in self.entities
        ]
        return "_".join([self.key, *parts])

    @property
    def contrasts(self) -> dict[str, Path]:
        """Available images by BIDS suffix, FLAIR first."""
        paths = dict(zip(CONTRASTS, (self.flair, self.t1w, self.t2w), strict=True))
        return {name: path for name, path in paths.items() if path is not None}

    def skull_stripped(self, contrast: str) -> bool | None:
        """Return ``SkullStripped`` of a sidecar; None if missing or not a boolean."""
        value = self.metadata.get(contrast, {}).get("SkullStripped")
        return value if isinstance(value, bool) else None


@dataclass(frozen=True, slots=True)
class Skipped:
    """A requested or existing visit that cannot be processed, with reason and hint."""

    participant: str
    session: str | None
    reason: str
    hint: str = ""

    @property
    def key(self) -> str:
        """Name of the visit: ``sub-<label>[_ses-<label>]``."""
        return visit_key(self.participant, self.session)


@dataclass(frozen=True, slots=True)
class Selection:
    """Result of a query: visits to process and skipped visits in natural order, and notes."""

    visits: tuple[Visit, ...]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...] = ()


def visit_key(participant: str, session: str | None) -> str:
    """Return ``sub-<participant>[_ses-<session>]``."""
    return f"sub-{participant}" if session is None else f"sub-{participant}_ses-{session}"


def identity_cells(participant: str, session: str | None) -> dict[str, str | None]:
    """Return the cells of a visit in the columns :data:`IDENTITY_COLUMNS`."""
    return {
        "participant_id": f"sub-{participant}",
        "session_id": None if session is None else f"ses-{session}",
    }


def visit_order(participant: str, session: str | None) -> tuple[Any, ...]:
    """Return a sort key for visits in natural order: 2 before 10, no session first."""
    return (
        _natural(participant),
        participant,
        session is not None,
        _natural(session or ""),
        session,
    )


def _natural(text: str) -> list[tuple[int, int, str]]:
    pieces = re.findall(r"[0-9]+|[^0-9]+", text)
    return [(0, int(piece), "") if piece.isdecimal() else (1, 0, piece) for piece in pieces]


def bare_label(label: str, entity: str) -> str:
    """Remove the prefix of an entity from a label, if present."""
    return label.strip().removeprefix(f"{entity}-")


def name_entities(name: str) -> tuple[dict[str, str], str]:
    """Split a BIDS file name without folder into its entities (short names) and its suffix."""
    *pairs, suffix = name.partition(".")[0].split("_")
    entities = dict(pair.split("-", 1) for pair in pairs if "-" in pair)
    return entities, suffix
