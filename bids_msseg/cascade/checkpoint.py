"""Weights on disk: safetensors with a JSON header, never a pickle."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from bids_msseg.cascade.networks import CandidateNet, NetConfig, RefinementNet, build
from bids_msseg.cascade.weights import FORMAT, HEADER_KEY, OperatingPoint, not_ours, read_header

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
    """

    name: str
    version: str
    candidate: tuple[CandidateNet, ...]
    refinement: tuple[RefinementNet, ...]
    point: OperatingPoint
    sha256: str


def save_cascade(
    path: Path,
    candidate: Sequence[CandidateNet],
    refinement: Sequence[RefinementNet],
    *,
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
    families: tuple[tuple[str, Sequence[CandidateNet | RefinementNet]], ...] = (
        ("candidate", candidate),
        ("refinement", refinement),
    )
    for kind, nets in families:
        for number, net in enumerate(nets):
            members[f"{kind}{number}"] = net.config.as_dict()
            for key, value in net.state_dict().items():
                tensors[f"{kind}{number}.{key}"] = value.detach().to(torch.float16).contiguous()
    header = {
        "format": FORMAT,
        "name": name,
        "version": version,
        "members": members,
        "point": asdict(point),
        "notes": dict(notes or {}),
    }
    content = save(tensors, metadata={HEADER_KEY: json.dumps(header, sort_keys=True)})
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(content)
    partial.replace(path)
    return hashlib.sha256(content).hexdigest()


def load_cascade(path: Path) -> Cascade:
    """Read a weights file.

    Raises
    ------
    DataError
        If it is truncated, not ours, or does not fit the nets it describes.
    """
    header = read_header(path)
    try:
        nets = _rebuild(header.members, _tensors(path))
    except (SafetensorError, OSError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise not_ours(path, " ".join(str(error).split())[:LONGEST_REASON]) from error
    if {type(net) for net in nets} != {CandidateNet, RefinementNet}:
        raise not_ours(path, "it does not hold a candidate net and a refinement net")
    return Cascade(
        header.name,
        header.version,
        tuple(net for net in nets if isinstance(net, CandidateNet)),
        tuple(net for net in nets if isinstance(net, RefinementNet)),
        header.point,
        header.sha256,
    )


def _tensors(path: Path) -> dict[str, Tensor]:
    with safe_open(os.fspath(path), framework="pt") as file:
        # the handle is no mapping: it has keys() but cannot be iterated over
        names = list(file.keys())
        return {name: file.get_tensor(name).float() for name in names}


def _rebuild(
    members: Mapping[str, Mapping[str, Any]], tensors: Mapping[str, Tensor]
) -> list[CandidateNet | RefinementNet]:
    nets: list[CandidateNet | RefinementNet] = []
    for member, shape in members.items():
        widths = tuple(int(width) for width in shape["widths"])
        norm = str(shape.get("norm", "instance"))
        net = build(NetConfig(str(shape["kind"]), widths, norm))
        prefix = f"{member}."
        net.load_state_dict(
            {key.removeprefix(prefix): v for key, v in tensors.items() if key.startswith(prefix)}
        )
        nets.append(net.eval())
    return nets
