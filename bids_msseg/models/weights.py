"""Header of a weights file, read without torch: networks and operating point."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from bids_msseg.errors import DataError, NoInputError, UsageError
from bids_msseg.options import CASCADE

__all__ = ["ModelHeader", "find_model", "read_header"]

FORMAT = "bids_msseg-cascade-3"
HEADER_KEY = "bids_msseg"
DEFAULT_MODEL = "cascade-5"
LONGEST_HEADER = 4 * 2**20
DIGEST_KEY = "tensors_sha256"


@dataclass(frozen=True, slots=True)
class CascadePoint:
    """Operating point of a cascade: thresholds and fusion weights."""

    candidate_threshold: float = 0.1  # of CNN-1
    refinement_weight: float = 0.3  # of CNN-2's logit; CNN-1 has the rest
    slice_weight: float = 0.0  # subtracted from the logit per mm of slice thickness above 1 mm
    threshold: float = 0.4  # of the fused probability


@dataclass(frozen=True, slots=True)
class ModelHeader:
    """What identifies a model: the description inside a weights file, or of another segmenter.

    Attributes
    ----------
    name, version : str
        As users name the model.
    members : mapping of str to mapping
        Shape of every network, by the prefix of its tensors.
    point : CascadePoint
    notes : mapping
        How it was trained.
    sha256 : str
        Of the whole file; of another segmenter, of its model and settings.
    segmenter : str
        ``cascade``, or one of the others of ``--segmenter``.
    licence, citation : str
        Of another segmenter.
    contrasts : tuple of str
        Those that another segmenter reads.
    """

    name: str
    version: str
    members: Mapping[str, Mapping[str, Any]]
    point: CascadePoint
    notes: Mapping[str, Any]
    sha256: str
    segmenter: str = CASCADE
    licence: str = ""
    citation: str = ""
    contrasts: tuple[str, ...] = ()


def find_model(model: str | None) -> Path:
    """Find a weights file by path or by the name of a bundled model.

    Parameters
    ----------
    model : str or None
        A path, the name of a bundled model, or None for the default one.

    Returns
    -------
    path

    Raises
    ------
    NoInputError
        If a path does not exist.
    UsageError
        If no bundled model has that name.
    """
    name = model or DEFAULT_MODEL
    if "/" in name or name.endswith(".safetensors"):
        path = Path(name)
        if not path.is_file():
            raise NoInputError(
                f"weights file not found: {path}",
                hint="pass a .safetensors file written by msseg-train, or the name of a bundled "
                "model, to --model",
            )
        return path
    folder = Path(str(resources.files("bids_msseg") / "data" / "weights"))
    bundled = {path.stem: path for path in sorted(folder.glob("*.safetensors"))}
    if name not in bundled:
        raise UsageError(
            f"no bundled model is named {name!r}",
            hint=f"use one of: {', '.join(bundled) or 'none is bundled'}, or a path",
        )
    return bundled[name]


def read_header(path: Path) -> ModelHeader:
    """Read the header of a weights file.

    Parameters
    ----------
    path : Path

    Returns
    -------
    ModelHeader

    Raises
    ------
    DataError
        If msseg did not write the file, if it has another format or is cut short, or if its
        checksum is wrong.
    """
    try:
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        if not 0 < length <= min(LONGEST_HEADER, len(content) - 8):
            raise ValueError("it is not a safetensors file")
        entries = json.loads(content[8 : 8 + length])
        header = json.loads(entries["__metadata__"][HEADER_KEY])
        _check_format(path, header["format"])
        _check_length(entries, len(content) - 8 - length)
        _check_sum(header[DIGEST_KEY], memoryview(content)[8 + length :])
        return _parse(header, hashlib.sha256(content).hexdigest())
    except KeyError as error:
        raise unusable_weights(path, f"its header has no {error}") from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise unusable_weights(path, str(error)) from error


def _check_format(path: Path, name: object) -> None:
    if name != FORMAT:
        raise DataError(
            f"{path.name} is not a usable cascade: its format is {name!r}, not {FORMAT!r}",
            hint="use the bundled weights, or train new ones with msseg-train",
        )


def _check_length(entries: Mapping[str, Any], size: int) -> None:
    ends = [e["data_offsets"][1] for name, e in entries.items() if name != "__metadata__"]
    if max(ends, default=0) != size:
        raise ValueError(f"it contains {size} bytes of weights instead of {max(ends, default=0)}")


def _check_sum(expected: object, tensors: memoryview) -> None:
    """Raise ValueError if the checksum of the tensors differs from ``expected``."""
    if hashlib.sha256(tensors).hexdigest() != expected:
        raise ValueError("checksum mismatch: its content was changed")


def _point(values: Mapping[str, Any]) -> CascadePoint:
    point = CascadePoint(**{key: float(value) for key, value in values.items()})
    for name, value in asdict(point).items():
        if not math.isfinite(value) or not 0 <= value <= 1:
            raise ValueError(f"invalid {name}: {value}")
    return point


def _parse(header: Mapping[str, Any], sha256: str) -> ModelHeader:
    return ModelHeader(
        str(header["name"]),
        str(header["version"]),
        dict(header["members"]),
        _point(header["point"]),
        dict(header["notes"]),
        sha256,
    )


def unusable_weights(path: Path, reason: str) -> DataError:
    """Return the error for a file that is not a usable cascade."""
    return DataError(
        f"{path.name} is not a usable cascade: {reason}",
        hint="copy or download the weights file again; the model card gives its SHA-256",
    )
