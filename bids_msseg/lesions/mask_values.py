"""Interpretation of the values of masks by experts and other programs: which are lesion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bids_msseg.errors import DataError

MaskValues = tuple[int, ...] | None
"""Values that are lesion; None for any above zero."""
ANY: Final = "any"
WHOLE: Final = 1e-4
"""How far a value may lie from a whole number: stored masks can have a slope."""
_LISTED: Final = 8


def lesion_voxels(
    data: NDArray[Any], name: str, values: MaskValues = None, *, fractions: bool = True
) -> tuple[NDArray[np.bool_], str]:
    """Find lesion voxels by value, with a note (may be empty); DataError for invalid values."""
    nonzero = np.unique(data[data != 0])
    if nonzero.size and not (np.isfinite(nonzero).all() and nonzero[0] > 0):
        raise _not_binary(name, nonzero)
    is_whole = np.abs(nonzero - np.rint(nonzero)) < WHOLE
    if values is not None:
        chosen = nonzero[is_whole & np.isin(np.rint(nonzero), values)]
        missing = nonzero.size and not chosen.size
        return np.isin(data, chosen), _no_requested_value(name, nonzero, values) if missing else ""
    if nonzero.size <= 1:
        return (
            data != 0,
            "" if is_whole.all() else f"{name}: the value {nonzero[0]:g} counts as lesion",
        )
    if is_whole.all():
        return data > 0, f"{name}: {_listing(nonzero)} all count as lesion (see --mask-values)"
    if not fractions:
        raise _not_binary(name, nonzero)
    if nonzero[-1] <= 0.5:
        raise DataError(
            f"no value of {name} exceeds 0.5: they lie between {nonzero[0]:g} and {nonzero[-1]:g}",
            hint="use a binary mask instead of a probability map, or threshold it first",
        )
    return data > 0.5, ""


def _no_requested_value(name: str, nonzero: NDArray[Any], values: Sequence[int]) -> str:
    requested = ", ".join(map(str, values))
    return f"{name} contains {_listing(nonzero)} but none of {requested}: it has no lesion voxels"


def _listing(nonzero: NDArray[Any]) -> str:
    listed = ", ".join(f"{value:g}" for value in nonzero[:_LISTED])
    return f"the values {listed}" + (", …" if nonzero.size > _LISTED else "")


def _not_binary(name: str, nonzero: NDArray[Any]) -> DataError:
    return DataError(
        f"{name} is not a binary mask: its non-zero values are {nonzero[0]:g} to {nonzero[-1]:g}",
        hint="use one whole number above zero for lesion and zero elsewhere",
    )
