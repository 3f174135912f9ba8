"""Networks from which a training starts."""

from __future__ import annotations

import hashlib
import pickle  # nosec B403 (the name of an exception only)
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bids_msseg.errors import DataError
from bids_msseg.io.atomic import open_alone
from bids_msseg.models.checkpoint import load_cascade
from bids_msseg.models.lesion_anatomy import (
    LesionAnatomyConfig,
    LesionAnatomyNet,
    read_network_weights,
)
from bids_msseg.models.lesion_refinement import LesionRefinementNet
from bids_msseg.models.weights import CascadePoint, read_header

TRAINED_ON, SYNTHETIC_IMAGES = "trained_on", "synthetic images"
"""Mark of a file whose network has seen no patient."""


@dataclass(frozen=True, slots=True)
class StartingNetworks:
    """Networks from which a training starts."""

    name: str
    sha256: str
    candidate: LesionAnatomyNet
    unseen: LesionAnatomyNet  # finds candidates for CNN-2; has seen no labelled visit
    refinement: LesionRefinementNet | None  # None for fresh weights
    pretrained: LesionAnatomyNet | None  # CNN-1 that has seen only synthetic images
    point: CascadePoint = field(default_factory=CascadePoint)
    # how a cascade was trained; empty for a pretrained CNN-1
    notes: Mapping[str, Any] = field(default_factory=dict)


def read_start(
    path: Path, shape: LesionAnatomyConfig | None = None, *, seen: bool = False
) -> StartingNetworks:
    """Read a cascade (``.safetensors``) or a pretrained CNN-1 (``.pt``) of the given shape.

    Uses only the pretrained CNN-1 of a cascade that has ``seen`` a visit; DataError without it.
    """
    if path.suffix == ".pt":
        net = _load_pretrained(path, shape)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return StartingNetworks(path.stem, digest, net, net, None, net)
    cascade, notes = load_cascade(path), read_header(path).notes
    if not seen:
        net = cascade.candidate[0]
        return StartingNetworks(
            cascade.name,
            cascade.sha256,
            net,
            net,
            cascade.refinement,
            cascade.unseen,
            cascade.point,
            notes,
        )
    if cascade.unseen is None:
        raise DataError(
            f"{path.name} was trained on one of these patients and has no pretrained CNN-1",
            hint="leave out the patients that the weights were trained on, or use other weights",
        )
    net = cascade.unseen
    return StartingNetworks(
        cascade.name, cascade.sha256, net, net, None, net, cascade.point, notes
    )


def write_pretrained(checkpoint: Path, target: Path) -> None:
    """Write the running mean of a pretraining to a ``.pt`` file in half precision."""
    weights = {name: value.half() for name, value in read_network_weights(checkpoint).items()}
    with open_alone(target) as stream:
        torch.save({TRAINED_ON: SYNTHETIC_IMAGES, "average": weights}, stream)


def _load_pretrained(path: Path, shape: LesionAnatomyConfig | None) -> LesionAnatomyNet:
    net = LesionAnatomyNet(shape)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content[TRAINED_ON] != SYNTHETIC_IMAGES:
            raise ValueError(content[TRAINED_ON])
        net.load_state_dict(read_network_weights(path))
    except (
        OSError,
        EOFError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
        AttributeError,
        pickle.UnpicklingError,
    ) as error:
        raise DataError(
            f"{path} does not contain a CNN-1 that was trained on synthetic images only",
            hint="use a file written by bids_msseg.training.pretrain --export, or a cascade "
            "(.safetensors)",
        ) from error
    return net.eval()
