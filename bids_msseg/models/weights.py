"""What a weights file says of itself, read without torch.

A safetensors file starts with eight bytes of length and a JSON header
(https://github.com/huggingface/safetensors#format); ours holds the shape of every net and the
operating point under ``__metadata__``.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from bids_msseg.errors import DataError, NoInputError, UsageError

FORMAT = "bids_msseg-cascade-1"
ANATOMY_FORMAT = "bids_msseg-cascade-2"
"""Of cascades whose CNN-1 has an anatomy head."""
HEADER_KEY = "bids_msseg"
DEFAULT_MODEL = "cascade-4"
LONGEST_HEADER = 4 * 2**20
DIGEST_KEY = "tensors_sha256"
SUMS_FILE = "SHA256SUMS"
"""Beside weights that were saved before they held a checksum of their own; `sha256sum -c`."""
Point = TypeVar("Point", "OperatingPoint", "CascadePoint")


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """The numbers between the nets, chosen on patients that the nets had not seen.

    Attributes
    ----------
    gate : float
        A voxel is a candidate where CNN-1's probability reaches this.
    keep : float
        A candidate is kept where CNN-2's lesion probability reaches this.
    threshold : float
        A voxel belongs to the mask where the final probability reaches this.
    second : float
        Weight of CNN-2's voxel probability in the final one; CNN-1's has the rest.
    trust : float
        How far a visit's own intensities correct CNN-1; 0 for not at all.
    judge, verdict : float
        Weights of the judge of voxels, and of the lesion probability of the whole candidate, in
        the pool of all opinions. Where the latter is 0, there is no pool: lesion probability caps
        what the two nets say of a voxel, and ``keep`` says how.
    """

    gate: float = 0.15
    keep: float = 0.5
    threshold: float = 0.5
    second: float = 0.5
    trust: float = 0.0
    judge: float = 0.0
    verdict: float = 0.0

    @property
    def candidate_threshold(self) -> float:
        """What :class:`CascadePoint` calls the gate."""
        return self.gate


@dataclass(frozen=True, slots=True)
class CascadePoint:
    """The numbers between the networks of a cascade with an anatomy head.

    Attributes
    ----------
    candidate_threshold : float
        A voxel is a candidate where CNN-1's probability reaches this.
    voxel_weight, lesion_weight : float
        Weights of CNN-2's probability of voxels and of the whole candidate in the mean of logits;
        CNN-1's probability has the rest.
    threshold : float
        A voxel belongs to the mask where the final probability reaches this.
    peak_threshold : float
        A lesion is kept where its peak reaches this.
    """

    candidate_threshold: float = 0.1
    voxel_weight: float = 0.3
    lesion_weight: float = 0.3
    threshold: float = 0.4
    peak_threshold: float = 0.5


@dataclass(frozen=True, slots=True)
class ModelHeader:
    """The description inside a weights file.

    Attributes
    ----------
    name, version : str
        As users name the model.
    members : mapping of str to mapping
        Shape of every net, by the prefix of its tensors.
    point : OperatingPoint or CascadePoint
    notes : mapping
        How it was trained.
    sha256 : str
        Of the whole file.
    format : str
        ``FORMAT`` or ``ANATOMY_FORMAT``.
    """

    name: str
    version: str
    members: Mapping[str, Mapping[str, Any]]
    point: OperatingPoint | CascadePoint
    notes: Mapping[str, Any]
    sha256: str
    format: str = FORMAT


def find_model(model: str | None) -> Path:
    """Find a weights file by path or by the name of a shipped model.

    Parameters
    ----------
    model : str or None
        A path, the name of a shipped model, or None for the default one.

    Returns
    -------
    path

    Raises
    ------
    NoInputError
        If a path does not exist.
    UsageError
        If no shipped model has that name.
    """
    name = model or DEFAULT_MODEL
    if "/" in name or name.endswith(".safetensors"):
        path = Path(name)
        if not path.is_file():
            raise NoInputError(
                f"there is no weights file {path}",
                hint="give --model a .safetensors file that msseg-train wrote, or a shipped name",
            )
        return path
    folder = Path(str(resources.files("bids_msseg") / "data" / "weights"))
    shipped = {path.stem: path for path in sorted(folder.glob("*.safetensors"))}
    if name not in shipped:
        raise UsageError(
            f"no shipped model is called {name!r}",
            hint=f"use one of: {', '.join(shipped) or 'none is shipped'}, or a path",
        )
    return shipped[name]


def read_header(path: Path) -> ModelHeader:
    """Read what a weights file says of itself.

    Raises
    ------
    DataError
        If it is not one of ours, is cut short, or is not what was saved, going by the checksum in
        its header or by ``SHA256SUMS`` beside it.
    """
    try:
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        if not 0 < length <= min(LONGEST_HEADER, len(content) - 8):
            raise ValueError("it does not start like a safetensors file")
        entries = json.loads(content[8 : 8 + length])
        header = json.loads(entries["__metadata__"][HEADER_KEY])
        _check_length(entries, len(content) - 8 - length)
        sha256 = hashlib.sha256(content).hexdigest()
        _check_sums(path, sha256, header, memoryview(content)[8 + length :])
        return _parse(header, sha256)
    except KeyError as error:
        raise not_ours(path, f"its header has no {error}") from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise not_ours(path, str(error)) from error


def _check_length(entries: Mapping[str, Any], there: int) -> None:
    ends = [e["data_offsets"][1] for name, e in entries.items() if name != "__metadata__"]
    if max(ends, default=0) != there:
        raise ValueError(f"it holds {there} bytes of weights instead of {max(ends, default=0)}")


def _check_sums(path: Path, sha256: str, header: Mapping[str, Any], tensors: memoryview) -> None:
    """Notice weights that were changed: a mask of theirs would look like any other."""
    expected = header.get(DIGEST_KEY)
    if expected is not None and hashlib.sha256(tensors).hexdigest() != expected:
        raise ValueError("its checksum is wrong: bytes of it were changed")
    sums = ""
    with suppress(OSError):
        sums = path.with_name(SUMS_FILE).read_text(encoding="utf-8")
    listed = {
        name: digest for digest, _, name in (line.partition("  ") for line in sums.split("\n"))
    }
    if listed.get(path.name, sha256) != sha256:
        raise ValueError(f"its checksum is not the one in {SUMS_FILE}")


def _point(values: Mapping[str, Any], kind: type[Point]) -> Point:
    point = kind(**{key: float(value) for key, value in values.items()})
    for name, value in asdict(point).items():
        if not math.isfinite(value) or value < 0 or (value > 1 and name != "trust"):
            raise ValueError(f"its {name} is {value}")
    return point


def _parse(header: Mapping[str, Any], sha256: str) -> ModelHeader:
    if header["format"] not in (FORMAT, ANATOMY_FORMAT):
        raise ValueError(f"its format is neither {FORMAT} nor {ANATOMY_FORMAT}")
    return ModelHeader(
        str(header["name"]),
        str(header["version"]),
        dict(header["members"]),
        _point(header["point"], OperatingPoint)
        if header["format"] == FORMAT
        else _point(header["point"], CascadePoint),
        dict(header["notes"]),
        sha256,
        str(header["format"]),
    )


def not_ours(path: Path, why: str) -> DataError:
    """Say that a file is not a usable cascade."""
    return DataError(
        f"{path.name} is not a usable cascade: {why}",
        hint="copy or download the weights file again; its sha256 stands in the model card",
    )
