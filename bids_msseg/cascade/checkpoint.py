"""Weights on disk: safetensors with a JSON header, never a pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bids_msseg.cascade.networks import (
    CandidateNet,
    JudgeNet,
    Net,
    NetConfig,
    RefinementNet,
    build,
)
from bids_msseg.models import checkpoint
from bids_msseg.models.checkpoint import COUNTER, body_of, check_numbers, write_weights
from bids_msseg.models.weights import (
    ANATOMY_FORMAT,
    FORMAT,
    OperatingPoint,
    not_ours,
    read_header,
)

LONGEST_REASON = 300


@dataclass(frozen=True, slots=True)
class Cascade:
    """Trained nets with their operating point.

    Attributes
    ----------
    name, version : str
        As users name the model.
    candidate, refinement : tuple of nets
        Members of each ensemble; their probabilities are averaged.
    point : OperatingPoint
    sha256 : str
        Of the weights file.
    judges : tuple of JudgeNet
        Judges of single voxels beside the refinement nets; none where the recipe has none.
    """

    name: str
    version: str
    candidate: tuple[CandidateNet, ...]
    refinement: tuple[RefinementNet, ...]
    point: OperatingPoint
    sha256: str
    judges: tuple[JudgeNet, ...] = ()


def save_cascade(
    path: Path,
    candidate: Sequence[CandidateNet],
    refinement: Sequence[RefinementNet],
    *,
    judges: Sequence[JudgeNet] = (),
    name: str,
    version: str,
    point: OperatingPoint,
    notes: Mapping[str, Any] | None = None,
) -> str:
    """Write all nets into one safetensors file, half precision, and return its SHA-256.

    The file appears under its name only when it is complete.
    """
    tensors: dict[str, Tensor] = {}
    members: dict[str, dict[str, Any]] = {}
    families: tuple[tuple[str, Sequence[Net]], ...] = (
        ("candidate", candidate),
        ("refinement", refinement),
        ("judge", judges),
    )
    for kind, nets in families:
        for number, net in enumerate(nets):
            members[f"{kind}{number}"] = net.config.as_dict()
            for key, value in net.state_dict().items():
                # batch normalisation counts its batches, which nothing reads
                kept = value.new_zeros(()) if key.endswith(COUNTER) else value.detach()
                tensors[f"{kind}{number}.{key}"] = kept.to(torch.float16).contiguous()
    header = {
        "format": FORMAT,
        "name": name,
        "version": version,
        "members": members,
        "point": asdict(point),
        "notes": dict(notes or {}),
    }
    return write_weights(path, tensors, header)


def check_cascade(path: Path) -> None:
    """See whether a weights file fits the nets that it describes, without computing anything.

    Names and shapes are compared with nets that have no memory, so a description of a terabyte
    costs nothing, and no thread of torch is started that a forked worker would miss.

    Parameters
    ----------
    path : path

    Raises
    ------
    DataError
        If :func:`load_cascade` would fail, or weights are not finite numbers.
    """
    header = read_header(path)
    if header.format == ANATOMY_FORMAT:
        checkpoint.check_cascade(path)
        return
    try:
        content = path.read_bytes()
        entries = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        entries.pop("__metadata__", None)
        with torch.device("meta"):
            _check_shapes(header.members, entries)
        for name, entry in entries.items():
            check_numbers(name, entry, body_of(content))
    except (OSError, LookupError, TypeError, ValueError, RuntimeError, MemoryError) as error:
        raise not_ours(path, " ".join(str(error).split())[:LONGEST_REASON]) from error


def _check_shapes(
    members: Mapping[str, Mapping[str, Any]], entries: Mapping[str, Mapping[str, Any]]
) -> None:
    nets = {member: build(_config(shape)) for member, shape in members.items()}
    if {type(net) for net in nets.values()} - {JudgeNet} != {CandidateNet, RefinementNet}:
        raise ValueError("it does not hold a candidate net and a refinement net")
    wanted = {
        f"{member}.{key}": list(value.shape)
        for member, net in nets.items()
        for key, value in net.state_dict().items()
    }
    odd = sorted(wanted.keys() ^ entries.keys())
    odd = odd or [name for name, shape in wanted.items() if entries[name]["shape"] != shape]
    if odd:
        raise ValueError(f"{odd[0]} and {len(odd) - 1} more tensors do not fit the nets")


def load_cascade(path: Path) -> Cascade:
    """Read a weights file.

    Raises
    ------
    DataError
        If it is truncated, not ours, or does not fit the nets it describes.
    """
    header = read_header(path)
    if not isinstance(header.point, OperatingPoint):
        raise not_ours(path, "it is of another kind: its CNN-1 has an anatomy head")
    try:
        nets = _rebuild(header.members, _tensors(path))
    except (SafetensorError, OSError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise not_ours(path, " ".join(str(error).split())[:LONGEST_REASON]) from error
    if {type(net) for net in nets} - {JudgeNet} != {CandidateNet, RefinementNet}:
        raise not_ours(path, "it does not hold a candidate net and a refinement net")
    return Cascade(
        header.name,
        header.version,
        tuple(net for net in nets if isinstance(net, CandidateNet)),
        tuple(net for net in nets if isinstance(net, RefinementNet)),
        header.point,
        header.sha256,
        tuple(net for net in nets if isinstance(net, JudgeNet)),
    )


def _tensors(path: Path) -> dict[str, Tensor]:
    with safe_open(os.fspath(path), framework="pt") as file:
        # the handle is no mapping: it has keys() but cannot be iterated over
        names = list(file.keys())
        return {name: file.get_tensor(name).float() for name in names}


def _config(shape: Mapping[str, Any]) -> NetConfig:
    widths = tuple(int(width) for width in shape["widths"])
    return NetConfig(str(shape["kind"]), widths, str(shape.get("norm", "instance")))


def _rebuild(members: Mapping[str, Mapping[str, Any]], tensors: Mapping[str, Tensor]) -> list[Net]:
    nets: list[Net] = []
    for member, shape in members.items():
        net = build(_config(shape))
        prefix = f"{member}."
        net.load_state_dict(
            {key.removeprefix(prefix): v for key, v in tensors.items() if key.startswith(prefix)}
        )
        nets.append(net.eval())
    return nets
