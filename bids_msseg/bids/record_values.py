"""Values of a visit's record, and their conversion from JSON."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from bids_msseg.bids.files import plain
from bids_msseg.bids.visit import LABEL
from bids_msseg.options import CASCADE

Status = Literal["ok", "failed", "skipped", "running"]
Scalar = str | int | float | bool | None
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class ContrastUse:
    """Use of one contrast of a visit.

    ``file`` is the path in the dataset, with forward slashes. ``spacing_mm`` is the voxel size (x,
    y, z). ``used`` tells whether the networks used it.
    """

    file: str
    spacing_mm: tuple[float, float, float]
    used: bool = True
    note: str = ""


@dataclass(frozen=True, slots=True)
class ModelUse:
    """Weights or other segmenter that produced the result.

    ``sha256`` is the digest of the weights file or, for another segmenter, of its model and
    settings. ``licence``, ``citation`` and ``contrasts`` are those of another segmenter.
    """

    name: str
    version: str
    sha256: str
    segmenter: str = CASCADE
    licence: str = ""
    citation: str = ""
    contrasts: tuple[str, ...] = ()

    @property
    def is_cascade(self) -> bool:
        """Whether it is the cascade of this package."""
        return self.segmenter == CASCADE


def read_field(content: Mapping[str, Any], name: str) -> Any:
    """Read one value; errors name the field."""
    try:
        return READERS[name](content[name])
    except (TypeError, KeyError, AttributeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name}: {error}") from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    if plain(value) != value:
        raise ValueError(f"{value!r} is no text that UTF-8 can hold")
    return value


def _label(value: Any) -> str:
    if not re.fullmatch(LABEL, _text(value)):
        raise ValueError(f"{value!r} is not a label of letters and digits")
    return str(value)


def _status(value: Any) -> Status:
    if value not in ("ok", "failed", "skipped"):
        raise ValueError(f"unknown status {value!r}")
    status: Status = value
    return status


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is not a number")
    if not math.isfinite(value):
        raise ValueError(f"{value!r} is not a finite number")
    return float(value)


def _amount(value: Any) -> float:
    number = _number(value)
    if number < 0:
        raise ValueError(f"{value!r} is less than nothing")
    return number


def _measure(value: Any) -> float:
    """Read a number; null, which stands for NaN in JSON, becomes NaN."""
    return math.nan if value is None else _number(value)


def _count(value: Any) -> int:
    return int(_amount(value))


def _spacing(value: Any) -> tuple[float, float, float]:
    x, y, z = (_measure(item) for item in value)
    return (x, y, z)


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is not a list")
    return tuple(_text(item) for item in value)


def _labels(value: Any) -> tuple[str, ...]:
    return tuple(_label(item) for item in _texts(value))


def _times(value: Any) -> dict[str, float]:
    """Read the times of steps, without unknown ones."""
    return {_text(step): _amount(time) for step, time in value.items() if time is not None}


def _scalar(value: Any) -> Scalar:
    if isinstance(value, str):
        return _text(value)
    if value is not None and not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is not a scalar")
    return value


def _changes(value: Any) -> dict[str, Scalar]:
    """Read the changes; check the types of known entries, which the pages use."""
    found = _mapping(_scalar)(value)
    for name, scalar in found.items():
        if name == "compared_with":
            _optional(_label)(scalar)
        elif name in _CHANGES_IN_WORDS:
            _optional(_text)(scalar)
        elif _CHANGES_IN_NUMBERS.search(name):
            _optional(_number)(scalar)
    return found


def _region(value: Any) -> tuple[float | None, int | None]:
    load, count = value
    return (_optional(_amount)(load), _optional(_count)(count))


def _contrast(value: Any) -> ContrastUse:
    return ContrastUse(
        _text(value["file"]),
        _spacing(value["spacing_mm"]),
        bool(value.get("used", True)),
        _text(value.get("note", "")),
    )


def _model(value: Any) -> ModelUse:
    return ModelUse(
        name=_text(value["name"]),
        version=_text(value["version"]),
        sha256=_text(value["sha256"]),
        segmenter=_text(value.get("segmenter", CASCADE)),
        licence=_text(value.get("licence", "")),
        citation=_text(value.get("citation", "")),
        contrasts=_texts(value.get("contrasts", [])),
    )


def _optional(read: Callable[[Any], _T]) -> Callable[[Any], _T | None]:
    return lambda value: None if value is None else read(value)


def _mapping(read: Callable[[Any], _T]) -> Callable[[Any], dict[str, _T]]:
    return lambda value: {_text(key): read(item) for key, item in value.items()}


_CHANGES_IN_WORDS = ("fingerprint", "failed", "hint", "notes")
_CHANGES_IN_NUMBERS = re.compile(r"^n_|_m[lm]$|_fraction_change$|^lesions_")
READERS: Mapping[str, Callable[[Any], Any]] = {
    "participant": _label,
    "session": _optional(_label),
    "prefix": _text,
    "status": _status,
    "reason": _text,
    "hint": _text,
    "crash_files": _texts,
    "contrasts": _mapping(_contrast),
    "model": _optional(_model),
    "options": _mapping(_scalar),
    "brain_volume_ml": _optional(_amount),
    "lesion_load_ml": _optional(_amount),
    "lesion_count": _optional(_count),
    "candidate_count": _optional(_count),
    "rejected_count": _optional(_count),
    "regions": _mapping(_region),
    "flags": _texts,
    "notes": _texts,
    "timings_s": _times,
    "fingerprint": _text,
    "versions": _mapping(_text),
    "methods": _text,
    "changes": _changes,
    "load_interval_ml": _optional(_spacing),
    "load_interval_reason": _text,
    "load_interval_note": _text,
    "quality_reasons": _optional(_texts),
    "quality_measures": _mapping(_measure),
    "visit_number": _optional(_count),
    "order_source": _text,
    "figures": _labels,
    "lesion_mask": _text,
    "exclude_masks": _texts,
    "excluded_ml": _optional(_amount),
    "brain_measures": _mapping(_measure),
    "anatomy_implausible": _optional(_texts),
}
