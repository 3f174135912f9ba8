"""Weights files: safetensors with a JSON header, without pickle."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from bids_msseg.io.atomic import open_alone
from bids_msseg.models.anatomy import CLASSES
from bids_msseg.models.lesion_anatomy import LesionAnatomyConfig, LesionAnatomyNet
from bids_msseg.models.lesion_refinement import LesionRefinementConfig, LesionRefinementNet
from bids_msseg.models.weights import (
    DIGEST_KEY,
    FORMAT,
    HEADER_KEY,
    CascadePoint,
    ModelHeader,
    read_header,
    unusable_weights,
)

LONGEST_REASON = 300
COUNTER = "num_batches_tracked"
UNSEEN = "unseen"
"""Member that was trained on synthetic images only, from which a site's own training starts."""
MAX_WIDTH = 4096
NUMBERS = {"F16": np.float16, "F32": np.float32, "F64": np.float64}
"""Types of tensors that are read without torch."""
Net = LesionAnatomyNet | LesionRefinementNet


@dataclass(frozen=True, slots=True)
class LesionCascade:
    """Trained networks of a cascade with their operating point."""

    name: str
    version: str
    candidate: tuple[LesionAnatomyNet, ...]  # CNN-1, one or more, averaged
    refinement: LesionRefinementNet  # CNN-2
    unseen: LesionAnatomyNet | None  # CNN-1 trained on synthetic images only
    point: CascadePoint
    sha256: str  # of the weights file


def save_cascade(
    path: Path,
    candidate: Sequence[LesionAnatomyNet],
    refinement: LesionRefinementNet,
    *,
    name: str,
    version: str,
    point: CascadePoint,
    unseen: LesionAnatomyNet | None = None,
    notes: Mapping[str, Any] | None = None,
) -> str:
    """Write all networks into one safetensors file in half precision; return its SHA-256."""
    nets: dict[str, Net] = {f"candidate{number}": net for number, net in enumerate(candidate)}
    nets["refinement0"] = refinement
    if unseen is not None:
        nets[UNSEEN] = unseen
    tensors = {
        f"{member}.{key}": value.to(torch.float16).contiguous()
        for member, net in nets.items()
        for key, value in _weights(net).items()
    }
    header = {
        "format": FORMAT,
        "name": name,
        "version": version,
        "members": {member: net.config.as_dict() for member, net in nets.items()},
        "point": asdict(point),
        "notes": dict(notes or {}),
    }
    return _write(path, tensors, header)


def _write(path: Path, tensors: dict[str, Tensor], header: Mapping[str, Any]) -> str:
    """Write tensors and a header with their digest atomically; return the file's SHA-256."""
    digest = hashlib.sha256(_tensor_bytes(save(tensors))).hexdigest()
    text = json.dumps({**header, DIGEST_KEY: digest}, sort_keys=True)
    content = save(tensors, metadata={HEADER_KEY: text})
    with open_alone(path) as stream:
        stream.write(content)
    return hashlib.sha256(content).hexdigest()


def _weights(net: Net) -> dict[str, Tensor]:
    """Return the stored tensors of a network, without the counters of batch normalisation."""
    state = {key: value.detach().cpu() for key, value in net.state_dict().items()}
    return {key: value for key, value in state.items() if not key.endswith(COUNTER)}


def _tensor_bytes(content: bytes) -> memoryview:
    """Return the tensor bytes of a safetensors file, without the header."""
    return memoryview(content)[8 + int.from_bytes(content[:8], "little") :]


def build(shape: Mapping[str, Any]) -> Net:
    """Build a network with fresh weights; ValueError if its description is not supported."""
    widths = tuple(int(width) for width in shape["widths"])
    if not 2 <= len(widths) <= 8 or not all(0 < width <= MAX_WIDTH for width in widths):
        raise ValueError(f"invalid widths: {widths}")
    if shape["kind"] == "lesion-refinement":
        return LesionRefinementNet(LesionRefinementConfig(widths))
    if shape["kind"] != "lesion-anatomy":
        raise ValueError(f"unknown kind of network: {shape['kind']!r}")
    if shape["classes"] != CLASSES:
        raise ValueError(f"it has {shape['classes']} classes of anatomy, not {CLASSES}")
    return LesionAnatomyNet(LesionAnatomyConfig(widths))


def load_cascade(path: Path) -> LesionCascade:
    """Load a cascade from a weights file; DataError if it is not usable."""
    header = read_header(path)
    try:
        nets = _build_networks(header, _read_tensors(path))
        first = tuple(
            net
            for member, net in nets.items()
            if isinstance(net, LesionAnatomyNet) and member != UNSEEN
        )
        second = [net for net in nets.values() if isinstance(net, LesionRefinementNet)]
        if not first or len(second) != 1:
            raise ValueError("it does not contain a candidate and a refinement network")
    except (
        SafetensorError,
        OSError,
        LookupError,
        TypeError,
        ValueError,
        RuntimeError,
        MemoryError,
    ) as error:
        raise unusable_weights(path, " ".join(str(error).split())[:LONGEST_REASON]) from error
    unseen = nets.get(UNSEEN)
    return LesionCascade(
        header.name,
        header.version,
        first,
        second[0],
        unseen if isinstance(unseen, LesionAnatomyNet) else None,
        header.point,
        header.sha256,
    )


def check_cascade(path: Path) -> None:
    """Check that weights are finite and fit their networks; DataError if not."""
    header = read_header(path)
    try:
        content = path.read_bytes()
        entries = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        entries.pop("__metadata__", None)
        # needs no memory, and starts no torch thread, which a forked worker would lack
        with torch.device("meta"):
            _check_shapes(header, entries)
        for name, entry in entries.items():
            _check_numbers(name, entry, _tensor_bytes(content))
    except (OSError, LookupError, TypeError, ValueError, RuntimeError, MemoryError) as error:
        raise unusable_weights(path, " ".join(str(error).split())[:LONGEST_REASON]) from error


def _check_shapes(header: ModelHeader, entries: Mapping[str, Mapping[str, Any]]) -> None:
    nets = {member: build(shape) for member, shape in header.members.items()}
    kinds = {type(net) for member, net in nets.items() if member != UNSEEN}
    if kinds != {LesionAnatomyNet, LesionRefinementNet}:
        raise ValueError("it does not contain a candidate and a refinement network")
    expected = {
        f"{member}.{key}": list(value.shape)
        for member, net in nets.items()
        for key, value in net.state_dict().items()
        if not key.endswith(COUNTER)
    }
    mismatched = sorted(expected.keys() ^ entries.keys())
    mismatched = mismatched or [
        name for name, shape in expected.items() if entries[name]["shape"] != shape
    ]
    if mismatched:
        raise ValueError(
            f"{mismatched[0]} and {len(mismatched) - 1} more tensors do not fit the networks"
        )


def _check_numbers(name: str, entry: Mapping[str, Any], body: memoryview) -> None:
    """Raise ``ValueError`` if a tensor of a safetensors file does not hold finite numbers."""
    kind = NUMBERS.get(entry["dtype"])
    start, end = entry["data_offsets"]
    if kind is None:
        raise ValueError(f"{name} has the unsupported type {entry['dtype']}")
    if not 0 <= start <= end <= len(body):
        raise ValueError(f"{name} lies outside the file")
    values = np.frombuffer(body[start:end], kind)
    # the counters of batch normalisation are not used
    finite = name.endswith(COUNTER) or np.isfinite(values).all()
    if values.size != int(np.prod(entry["shape"])) or not finite:
        raise ValueError(f"{name} does not contain {entry['shape']} finite numbers")


def _read_tensors(path: Path) -> dict[str, Tensor]:
    with safe_open(os.fspath(path), framework="pt") as file:
        # the handle is no mapping: it has keys() but cannot be iterated over
        names = list(file.keys())
        return {name: file.get_tensor(name).float() for name in names}


def _build_networks(header: ModelHeader, tensors: Mapping[str, Tensor]) -> dict[str, Net]:
    nets: dict[str, Net] = {}
    used = 0
    for member, shape in header.members.items():
        net, prefix = build(shape), f"{member}."
        weights = {
            key.removeprefix(prefix): v for key, v in tensors.items() if key.startswith(prefix)
        }
        used += len(weights)
        counters = {key: v for key, v in net.state_dict().items() if key.endswith(COUNTER)}
        net.load_state_dict({**weights, **counters})
        nets[member] = net.eval()
    if used != len(tensors):
        raise ValueError(f"{len(tensors) - used} tensors belong to no network")
    return nets
