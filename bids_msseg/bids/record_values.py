"""Types of the values of a visit's record; pydantic reads them from JSON."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AllowInfNan,
    BeforeValidator,
    Field,
    Strict,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)

from bids_msseg.bids.visit import LABEL
from bids_msseg.io.validation import first_error
from bids_msseg.options import CASCADE

Scalar = str | int | float | bool | None


def _null_is_nan(value: Any) -> Any:
    """Return NaN for null, which stands for it in JSON."""
    return math.nan if value is None else value


def _not_infinite(value: float) -> float:
    if math.isinf(value):
        raise ValueError("Input should be a finite number")
    return value


def _integral(value: Any) -> Any:
    """Convert an integral float, which other programs may write for an integer."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _known_times(value: Any) -> Any:
    """Leave out steps whose time is unknown."""
    if not isinstance(value, Mapping):
        return value
    return {step: time for step, time in value.items() if time is not None}


def _finished(status: str) -> str:
    if status == "running":
        raise ValueError("Input should be 'ok', 'failed' or 'skipped'")
    return status


def check_changes(changes: Mapping[str, Scalar]) -> None:
    """Check the types of known entries, which the pages use; raise ValueError."""
    for name, value in changes.items():
        try:
            adapter(_change_kind(name)).validate_python(value)
        except ValidationError as error:
            raise ValueError(first_error(error, "changes", name)) from error


def _change_kind(name: str) -> Any:
    if name == "compared_with":
        return Label | None
    if name in _TEXT_CHANGES:
        return str | None
    return Number | None if _NUMERIC_CHANGES.search(name) else Any


@cache
def adapter(kind: Any) -> TypeAdapter[Any]:
    """Return the validator of a type; each is built once."""
    return TypeAdapter(kind)


_TEXT_CHANGES = ("fingerprint", "failed", "hint", "notes")
_NUMERIC_CHANGES = re.compile(r"^n_|_m[lm]$|_fraction_change$|^lesions_")
Label = Annotated[str, StringConstraints(pattern=rf"^{LABEL}$")]
Number = Annotated[float, Strict(), AllowInfNan(allow_inf_nan=False)]
Amount = Annotated[Number, Field(ge=0)]
Measure = Annotated[float, Strict(), BeforeValidator(_null_is_nan), AfterValidator(_not_infinite)]
Triple = tuple[Measure, Measure, Measure]
Count = Annotated[int, Strict(), Field(ge=0), BeforeValidator(_integral)]
Times = Annotated[Mapping[str, Amount], BeforeValidator(_known_times)]
Status = Literal["ok", "failed", "skipped", "running"]
FileStatus = Annotated[Status, AfterValidator(_finished)]


@dataclass(frozen=True, slots=True)
class ContrastUse:
    """Use of one contrast of a visit."""

    file: str  # path in the dataset, with forward slashes
    spacing_mm: Triple  # voxel size (x, y, z)
    used: bool = True  # by the networks
    note: str = ""


@dataclass(frozen=True, slots=True)
class ModelUse:
    """Weights or other segmenter that produced the result."""

    name: str
    version: str
    sha256: str  # of the weights file, or of model and settings of another segmenter
    segmenter: str = CASCADE
    # of another segmenter
    licence: str = ""
    citation: str = ""
    contrasts: tuple[str, ...] = ()

    @property
    def is_cascade(self) -> bool:
        """Whether it is the cascade of this package."""
        return self.segmenter == CASCADE
