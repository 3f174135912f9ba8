"""Columns of ``participants.tsv`` and the group table that group visits or form axes."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bids_msseg.bids.files import format_cell, load_tsv
from bids_msseg.bids.visit import bare_label
from bids_msseg.reports.tables import Row
from bids_msseg.reports.text import MISSING, listed

MAX_LEVELS = 12
"""Largest number of different values of a column that groups visits."""
MIN_NUMBERS = 3
"""Smallest number of different numbers of a column that forms an axis."""
GROUP_LEVELS = ("session_id", "contrasts", "flair_voxel_mm", "qc_rating")
GROUP_NUMBERS = ("brain_volume_ml", "brain_parenchymal_fraction", "ventricular_fraction")
EVERYBODY = "everybody"
PARTICIPANTS = "participants.tsv"
_COMMA = re.compile(r"^\s*([-+]?[0-9]+),([0-9]{1,2}|[0-9]{4,})\s*$")


@dataclass(frozen=True, slots=True)
class Facets:
    """Columns that group the cohort, and numeric columns for axes, in visit order."""

    levels: Mapping[str, tuple[str, ...]]  # n/a if unknown
    numbers: Mapping[str, tuple[float | None, ...]]


@dataclass(frozen=True, slots=True)
class Participants:
    """Rows of ``participants.tsv`` by ``sub-<label>``, and notes on unusable content."""

    rows: Mapping[str, Row]
    notes: tuple[str, ...] = ()


def read_participants(bids_dir: Path | None) -> Participants:
    """Read ``participants.tsv``, which may be missing; labels may lack ``sub-``."""
    if bids_dir is None:
        return Participants({})
    path = bids_dir / PARTICIPANTS
    try:
        rows = load_tsv(path)
    except UnicodeDecodeError:
        return _unusable("is not UTF-8 (save it as UTF-8)")
    except FileNotFoundError:
        return _unusable("is a broken link") if path.is_symlink() else Participants({})
    except OSError as error:
        return _unusable(f"cannot be read ({error.strerror or error})")
    except ValueError as error:
        return _unusable(f"is not a table ({error})")
    if not rows:
        return _unusable("lists no participants")
    if "participant_id" not in rows[0]:
        return _unusable(f"has no column participant_id, only {listed(list(rows[0]))}")
    return _merge(rows)


def note_absent(people: Participants, rows: Sequence[Row]) -> tuple[str, ...]:
    """Note which participants of the group table are not in ``participants.tsv``."""
    ids = dict.fromkeys(row["participant_id"] for row in rows)
    absent = [name for name in ids if name not in people.rows]
    return (f"not in {PARTICIPANTS}: {listed(absent)}",) if people.rows and absent else ()


def _unusable(reason: str) -> Participants:
    return Participants({}, (f"{PARTICIPANTS} is not used: it {reason}",))


def _merge(rows: Sequence[Row]) -> Participants:
    """Merge the rows of each participant; contradictory cells become ``n/a``."""
    people: dict[str, dict[str, str]] = {}
    contradictions: dict[str, dict[str, None]] = {}
    for row in rows:
        label = bare_label(row["participant_id"], "sub")
        if label in ("", MISSING):
            continue
        key = f"sub-{label}"
        merged = people.setdefault(key, {})
        for name, value in row.items():
            if merged.get(name, MISSING) in (MISSING, ""):
                merged[name] = value
            elif name != "participant_id" and value not in (merged[name], MISSING, ""):
                contradictions.setdefault(key, {})[name] = None
    for key, names in contradictions.items():
        people[key] |= dict.fromkeys(names, MISSING)
    lines = [f"{key} ({', '.join(names)})" for key, names in contradictions.items()]
    note = f"{PARTICIPANTS} has contradictory values, treated as n/a: {listed(lines)}"
    return Participants(people, (*((note,) if lines else ()), *_age_notes(people)))


def _age_notes(people: Mapping[str, Row]) -> tuple[str, ...]:
    """Note which ages are not numbers, except in columns of age groups."""
    notes = []
    for name in dict.fromkeys(name for row in people.values() for name in row if _is_age(name)):
        ages = {key: row.get(name, MISSING) for key, row in people.items()}
        known_ages = {key: age for key, age in ages.items() if _known_values([age])}
        not_numbers = [
            f"{key} ({age!r})" for key, age in known_ages.items() if _number(age) is None
        ]
        if not_numbers and (len(not_numbers) < len(known_ages) or name.casefold() == "age"):
            text = f"is not a number, treated as n/a: {listed(not_numbers)}"
            notes.append(f"{PARTICIPANTS}: {name} {text}")
    return tuple(notes)


def _is_age(name: str) -> bool:
    return "age" in re.split(r"[^a-z]+", name.casefold())


def find_facets(rows: Sequence[Row], people: Mapping[str, Row]) -> Facets:
    """Find the columns that group the visits and the numeric ones for axes."""
    participant_columns = list(dict.fromkeys(name for row in people.values() for name in row))
    table = {
        name: tuple(people.get(row["participant_id"], {}).get(name, MISSING) for row in rows)
        for name in participant_columns
        if name != "participant_id"
    }
    group_columns = {
        name: tuple(row.get(name, MISSING) for row in rows)
        for name in (*GROUP_LEVELS, *GROUP_NUMBERS)
        if name not in table
    }
    numbers = {
        name: tuple(map(_number, values))
        for name, values in (table | group_columns).items()
        if name not in GROUP_LEVELS and _is_axis(name, values)
    }
    levels = {
        name: values
        for name, values in (table | group_columns).items()
        if name not in GROUP_NUMBERS and _divides(name, values)
    }
    return Facets(levels, numbers)


def summarise(rows: Sequence[Row], loads: Sequence[float | None], facets: Facets) -> list[Row]:
    """Summarise loads (mL; None: no result) of all visits and of every level of every column."""
    groups = [(EVERYBODY, EVERYBODY, list(range(len(rows))))]
    for name, values in facets.levels.items():
        for level in sorted(set(values), key=lambda text: (text == MISSING, text)):
            members = [i for i, value in enumerate(values) if value == level]
            groups.append((name, level, members))
    return [
        _describe(name, level, [rows[i] for i in members], [loads[i] for i in members])
        for name, level, members in groups
    ]


def summary_dictionary() -> dict[str, dict[str, str]]:
    """Describe the columns of ``group_lesions_summary.tsv``."""
    load = "of the lesion loads, after QC if there is one"
    return {
        "column": {"Description": "Column of participants.tsv or of group_lesions.tsv"},
        "level": {"Description": "Value of the column; everybody for all visits"},
        "participants": {"Description": "Participants with a load"},
        "visits": {"Description": "Visits with a load"},
        "load_median_ml": {"Description": f"Median {load}", "Units": "mL"},
        "load_q1_ml": {"Description": f"First quartile {load}", "Units": "mL"},
        "load_q3_ml": {"Description": f"Third quartile {load}", "Units": "mL"},
        "load_min_ml": {"Description": f"Smallest {load}", "Units": "mL"},
        "load_max_ml": {"Description": f"Largest {load}", "Units": "mL"},
    }


def _describe(
    column: str, level: str, rows: Sequence[Row], loads: Sequence[float | None]
) -> dict[str, str]:
    known_loads = [load for load in loads if load is not None]
    people = {
        row["participant_id"] for row, load in zip(rows, loads, strict=True) if load is not None
    }
    q1, q3 = np.percentile(known_loads, (25, 75)).tolist() if known_loads else (None, None)
    values = {
        "column": column,
        "level": level,
        "participants": len(people),
        "visits": len(known_loads),
        "load_median_ml": statistics.median(known_loads) if known_loads else None,
        "load_q1_ml": q1,
        "load_q3_ml": q3,
        "load_min_ml": min(known_loads, default=None),
        "load_max_ml": max(known_loads, default=None),
    }
    return {name: format_cell(value) for name, value in values.items()}


def _number(value: str) -> float | None:
    """Parse a finite number, or return None; a comma that may separate thousands is refused."""
    try:
        number = float(_COMMA.sub(r"\1.\2", value))
    except ValueError:
        return None
    return number if np.isfinite(number) else None


def _known_values(values: Sequence[str]) -> set[str]:
    return set(values) - {MISSING, ""}


def _is_axis(name: str, values: Sequence[str]) -> bool:
    """Return whether a column has enough numbers, and (except for ages) only numbers."""
    distinct = _known_values(values)
    numbers = {number for value in distinct if (number := _number(value)) is not None}
    only_numbers = _is_age(name) or all(_number(value) is not None for value in distinct)
    return only_numbers and len(numbers) >= MIN_NUMBERS


def _divides(name: str, values: Sequence[str]) -> bool:
    """Return whether a column has few different values, which are codes or no axis."""
    distinct = _known_values(values)
    if not 2 <= len(distinct) <= MAX_LEVELS:
        return False
    return all(map(_is_code, distinct)) or not _is_axis(name, values)


def _is_code(value: str) -> bool:
    number = _number(value)
    return value.isdecimal() and number is not None and number <= MAX_LEVELS
