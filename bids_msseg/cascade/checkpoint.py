"""Weights on disk: safetensors with a JSON header, never a pickle."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from bids_msseg.cascade.networks import CandidateNet, NetConfig, RefinementNet, build
from bids_msseg.errors import DataError, NoInputError

FORMAT = "bids_msseg-cascade-1"


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
    """

    gate: float = 0.15
    keep: float = 0.5
    threshold: float = 0.5


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
    for kind, nets in (("candidate", candidate), ("refinement", refinement)):
        for number, net in enumerate(nets):
            members[f"{kind}{number}"] = net.config.as_dict()
            for key, value in net.state_dict().items():
                tensors[f"{kind}{number}.{key}"] = value.detach().to(torch.float16).contiguous()
    header = {
        "format": FORMAT,
        "name": name,
        "version": version,
        "members": members,
        "point": {"gate": point.gate, "keep": point.keep, "threshold": point.threshold},
        "notes": dict(notes or {}),
    }
    content = save(tensors, metadata={"bids_msseg": json.dumps(header, sort_keys=True)})
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(content)
    partial.replace(path)
    return hashlib.sha256(content).hexdigest()


def load_cascade(path: Path) -> Cascade:
    """Read a weights file.

    Raises
    ------
    NoInputError
        If it is not there.
    DataError
        If it is truncated, not ours, or does not fit the nets it describes.
    """
    if not path.is_file():
        raise NoInputError(
            f"there is no weights file {path}",
            cure="give --model a .safetensors file that msseg-train wrote, or a shipped name",
        )
    header, tensors = _read(path)
    try:
        nets = _rebuild(header["members"], tensors)
        point = OperatingPoint(**header["point"])
        name, version = str(header["name"]), str(header["version"])
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise _not_ours(path, str(error).splitlines()[0]) from error
    return Cascade(
        name,
        version,
        tuple(net for net in nets if isinstance(net, CandidateNet)),
        tuple(net for net in nets if isinstance(net, RefinementNet)),
        point,
        hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("bids_msseg", "null"))
            # safetensors' handle is no mapping: it has keys() but cannot be iterated over
            names = list(file.keys())
            tensors = {name: file.get_tensor(name).float() for name in names}
    except (SafetensorError, OSError, ValueError) as error:
        raise _not_ours(path, str(error)) from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise _not_ours(path, f"its header does not say {FORMAT}")
    return header, tensors


def _rebuild(
    members: Mapping[str, Mapping[str, Any]], tensors: Mapping[str, Tensor]
) -> list[CandidateNet | RefinementNet]:
    nets: list[CandidateNet | RefinementNet] = []
    for member, shape in members.items():
        net = build(NetConfig(str(shape["kind"]), tuple(int(w) for w in shape["widths"])))
        prefix = f"{member}."
        net.load_state_dict(
            {key.removeprefix(prefix): v for key, v in tensors.items() if key.startswith(prefix)}
        )
        nets.append(net.eval())
    return nets


def _not_ours(path: Path, why: str) -> DataError:
    return DataError(
        f"{path.name} is not a usable cascade: {why}",
        cure="copy or download the weights file again; its sha256 stands in the model card",
    )
