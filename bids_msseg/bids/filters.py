"""The ``--bids-filter-file`` (as in fMRIPrep): entities that an image must have to be used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bids.layout import Query

from bids_msseg.bids.visit import CONTRASTS, bare_label
from bids_msseg.errors import UsageError

_LONG_NAMES = {
    "sub": "subject",
    "ses": "session",
    "acq": "acquisition",
    "ce": "ceagent",
    "rec": "reconstruction",
    "dir": "direction",
    "mod": "modality",
    "nuc": "nucleus",
    "stain": "staining",
    "trc": "tracer",
    "voi": "volume",
}
SHORT_NAMES = {long: short for short, long in _LONG_NAMES.items()}
"""Entity names in file names, by their names in pybids where these differ."""
_QUERY = re.compile(r"<?Query\.(NONE|REQUIRED|ANY|OPTIONAL)(?:: \d+)?>?")
_PYBIDS_ARGUMENTS = frozenset({"scope", "return_type", "target", "invalid_filters", "filters"})


@dataclass(frozen=True, slots=True)
class Filters:
    """Filters for pybids; those of the FLAIR for subject and session select visits."""

    by_contrast: Mapping[str, Mapping[str, Any]]  # arguments of BIDSLayout.get, by BIDS suffix
    subject: tuple[Any, ...] = ()  # empty means all
    session: tuple[Any, ...] = ()
    notes: tuple[str, ...] = ()

    def allows(self, participant: str, session: str | None) -> bool:
        """Return whether the FLAIR filter allows this visit."""
        return _allowed(self.subject, participant) and _allowed(self.session, session)


def parse_filters(raw: Mapping[str, Any] | None) -> Filters:
    """Convert the content of a BIDS filter file to pybids arguments; UsageError if it is invalid.

    Null or ``Query.NONE`` means that an entity is absent, ``*`` or ``Query.ANY`` that it exists.
    """
    if not isinstance(raw or {}, Mapping):
        raise _wrong_shape("the top level")
    names = {contrast.lower(): contrast for contrast in CONTRASTS}
    by_contrast: dict[str, dict[str, Any]] = {contrast: {} for contrast in CONTRASTS}
    notes = []
    for key, value in (raw or {}).items():
        contrast = names.get(str(key).lower())
        if contrast is None:
            notes.append(f'filter file: "{key}" is not a contrast of this app and was ignored')
        elif isinstance(value, Mapping):
            by_contrast[contrast].update(_entities(value))
        else:
            raise _wrong_shape(f'the entry "{key}"')
    subject, session = (by_contrast["FLAIR"].pop(name, []) for name in ("subject", "session"))
    return Filters(by_contrast, tuple(subject), tuple(session), tuple(notes))


def _wrong_shape(part: str) -> UsageError:
    return UsageError(
        f"{part} of the filter file is not a dictionary",
        hint='write it as {"flair": {"acquisition": "3D"}, "t1w": {"run": 1}}',
    )


def _entities(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Convert to long entity names and pybids values, without arguments of pybids."""
    entities: dict[str, Any] = {}
    for key, value in raw.items():
        name = _LONG_NAMES.get(str(key), str(key))
        if name in ("subject", "session"):
            entities[name] = _labels(_value(value), name)
        elif name not in _PYBIDS_ARGUMENTS:
            entities[name] = _value(value)
    return entities


def _value(raw: Any) -> Any:
    if isinstance(raw, (list, tuple)):
        return [_value(item) for item in raw]
    if isinstance(raw, Mapping):
        raise UsageError(
            f"invalid value of an entity in the filter file: {raw}",
            hint='use a string, a number, null or a list of these: {"flair": {"run": [1, 2]}}',
        )
    if raw is None:
        return Query.NONE
    if raw == "*":
        return Query.ANY
    match = _QUERY.fullmatch(raw) if isinstance(raw, str) else None
    return Query[match[1]] if match else raw


def _labels(value: Any, entity: str) -> list[Any]:
    return [
        item if isinstance(item, Query) else bare_label(str(item), entity[:3])
        for item in (value if isinstance(value, list) else [value])
    ]


def _allowed(values: tuple[Any, ...], label: str | None) -> bool:
    if not values or Query.OPTIONAL in values or label in values:
        return True
    return Query.NONE in values if label is None else Query.ANY in values
