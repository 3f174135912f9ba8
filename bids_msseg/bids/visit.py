"""Visits and skipped visits, which the dataset index passes to the workflow.

This module has no slow imports, so that a worker process can unpickle a :class:`Visit` without
importing pybids.
"""

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
    """One participant at one session, with the images to use.

    Labels have no prefix. ``entities`` are those of the FLAIR except sub and ses, as written.
    ``metadata`` maps contrasts to their inherited sidecars. ``brain_mask`` is on the FLAIR grid;
    ``lesion_mask`` replaces the networks. ``problem`` says why the visit will fail, if known.

    Examples
    --------
    >>> visit = Visit("01", "1", Path("f.nii.gz"), entities={"run": "02", "acq": "3D"})
    >>> visit.key, visit.prefix
    ('sub-01_ses-1', 'sub-01_ses-1_acq-3D_run-02')
    >>> list(visit.contrasts)
    ['FLAIR']
    """

    participant: str
    session: str | None
    flair: Path
    t1w: Path | None = None
    t2w: Path | None = None
    entities: Mapping[str, str] = field(default_factory=dict)
    brain_mask: Path | None = None
    metadata: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    problem: str = ""
    lesion_mask: Path | None = None
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
    """Result of a query: visits to process, skipped visits and general notes.

    Visits are in natural order of participant and session.
    """

    visits: tuple[Visit, ...]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...] = ()


def visit_key(participant: str, session: str | None) -> str:
    """Return ``sub-<participant>[_ses-<session>]``.

    Examples
    --------
    >>> visit_key("01", None), visit_key("01", "pre")
    ('sub-01', 'sub-01_ses-pre')
    """
    return f"sub-{participant}" if session is None else f"sub-{participant}_ses-{session}"


def identity_cells(participant: str, session: str | None) -> dict[str, str | None]:
    """Return the cells of a visit in the columns :data:`IDENTITY_COLUMNS`.

    Examples
    --------
    >>> identity_cells("01", None), identity_cells("01", "pre")["session_id"]
    ({'participant_id': 'sub-01', 'session_id': None}, 'ses-pre')
    """
    return {
        "participant_id": f"sub-{participant}",
        "session_id": None if session is None else f"ses-{session}",
    }


def visit_order(participant: str, session: str | None) -> tuple[Any, ...]:
    """Return a sort key for visits in natural order: 2 before 10, no session first.

    Examples
    --------
    >>> sorted([("10", None), ("2", "b"), ("2", None)], key=lambda pair: visit_order(*pair))
    [('2', None), ('2', 'b'), ('10', None)]
    """
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
    """Remove the prefix of an entity from a label, if present.

    Examples
    --------
    >>> bare_label("sub-01", "sub"), bare_label("01", "sub")
    ('01', '01')
    """
    return label.strip().removeprefix(f"{entity}-")


def name_entities(name: str) -> tuple[dict[str, str], str]:
    """Split a BIDS file name into its entities (short names) and its suffix.

    ``name`` has no folder. Values are as written.

    Examples
    --------
    >>> name_entities("sub-01_run-02_T1w.nii.gz")
    ({'sub': '01', 'run': '02'}, 'T1w')
    """
    *pairs, suffix = name.partition(".")[0].split("_")
    entities = dict(pair.split("-", 1) for pair in pairs if "-" in pair)
    return entities, suffix
