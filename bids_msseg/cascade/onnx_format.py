"""The cascade as a folder of ONNX files (https://onnx.ai), out and in again.

``cascade.json`` beside them says how images become inputs, how outputs become a mask, and which
file holds which net. Weights keep the names that they have in our nets, so they can be read back.
The packages ``onnx`` and ``onnxruntime`` are needed (``pip install bids_msseg[onnx]``).
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bids_msseg.cascade.augment import BACKGROUND
from bids_msseg.cascade.checkpoint import LONGEST_REASON, Cascade
from bids_msseg.cascade.inference import CROP, STRIDE, TILE
from bids_msseg.cascade.networks import (
    CandidateNet,
    JudgeNet,
    Net,
    NetConfig,
    RefinementNet,
    build,
)
from bids_msseg.cascade.valverde.nets import PATCH
from bids_msseg.errors import CannotCreateError, DataError, UsageError
from bids_msseg.models.checkpoint import COUNTER
from bids_msseg.models.weights import OperatingPoint

FORMAT = "bids_msseg-onnx-1"
DESCRIPTION = "cascade.json"
OPSET = 17
"""The newest one that torch's tracing exporter writes without translation."""
OUTPUTS = {"candidate": ("logits",), "refinement": ("voxels", "lesion"), "judge": ("logits",)}
CHANNELS = ("FLAIR", "T1w", "T2w", "has FLAIR", "has T1w", "has T2w")
EXTRA_CHANNELS = ("probability of the candidate net", "mask of the candidate")
TOLERANCE = 1e-3
"""Largest difference between torch and onnxruntime that is taken for rounding, a share of the
largest logit where that is above one."""


def require_onnx() -> None:
    """Check that the packages for ONNX are there.

    Raises
    ------
    UsageError
        If one is missing.
    """
    missing = [n for n in ("onnx", "onnxruntime") if importlib.util.find_spec(n) is None]
    if missing:
        raise UsageError(
            f"ONNX files need the package {' and '.join(missing)}",
            hint="pip install 'bids_msseg[onnx]'",
        )


def export_cascade(
    cascade: Cascade,
    folder: Path,
    *,
    notes: Mapping[str, Any] | None = None,
    check: bool = True,
) -> float:
    """Write every net as an ONNX file in single precision, and what is needed to use them.

    Parameters
    ----------
    cascade : Cascade
    folder : path
        New or empty; it appears under its name when it is complete.
    notes : mapping, optional
        How the nets were trained, kept for :func:`read_description`.
    check : bool, default True
        Compare what was written with the nets before it gets its name.

    Returns
    -------
    float
        Largest difference found, see :func:`largest_difference`; 0 without a check.

    Raises
    ------
    CannotCreateError
        If the folder holds something.
    DataError
        If an exported net differs from ours by more than rounding.
    UsageError
        If the packages for ONNX are missing.
    """
    require_onnx()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CannotCreateError(
            f"{folder} is there and holds something", hint="give a new folder for the ONNX files"
        )
    partial = folder.with_name(folder.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, net in _members(cascade).items():
        export_net(net, partial / f"{name}.onnx")
    description = describe(cascade, notes or {})
    text = json.dumps(description, indent=1) + "\n"
    (partial / DESCRIPTION).write_text(text, encoding="utf-8")
    worst = check_export(cascade, partial) if check else 0.0
    partial.replace(folder)
    return worst


def _members(cascade: Cascade) -> dict[str, Net]:
    families: tuple[tuple[str, Sequence[Net]], ...] = (
        ("candidate", cascade.candidate),
        ("refinement", cascade.refinement),
        ("judge", cascade.judges),
    )
    return {f"{kind}{n}": net for kind, nets in families for n, net in enumerate(nets)}


def export_net(net: Net, path: Path) -> None:
    """Write one net; number, and edges of its inputs, are free, those of a judge's patches not.

    Parameters
    ----------
    net : CandidateNet, RefinementNet or JudgeNet
        On the CPU. Input ``images`` has shape (N, C, X, Y, Z), edges as the net wants them;
        outputs are ``logits`` (N, 1, X, Y, Z), or ``voxels`` (N, 1, X, Y, Z) and ``lesion`` (N,),
        or a judge's ``logits`` (N, 2) of no lesion and lesion.
    path : path
    """
    outputs = OUTPUTS[net.config.kind]
    axes = {0: "number", 2: "x", 3: "y", 4: "z"}
    dynamic = dict.fromkeys(("images", *outputs), axes)
    if "lesion" in dynamic:
        dynamic["lesion"] = {0: "number"}
    if isinstance(net, JudgeNet):
        dynamic = {name: {0: "number"} for name in ("images", *outputs)}
    with warnings.catch_warnings():
        # the exporter that follows torch.export takes half a minute a net and one more package
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net.eval(),
            (example_input(net, number=2, size=_smallest_edge(net)),),
            str(path),
            dynamo=False,
            # weights of batch normalisation keep their names: the net is in evaluation mode
            training=torch.onnx.TrainingMode.PRESERVE,
            input_names=["images"],
            output_names=list(outputs),
            dynamic_axes=dynamic,
            opset_version=OPSET,
        )


def _smallest_edge(net: Net) -> int:
    """Edge at which the coarsest features still have more than one voxel, 16 at least."""
    return max(16, 1 << len(net.config.widths))


def example_input(net: Net, *, number: int, size: int, seed: int = 0) -> Tensor:
    """Draw an input of the right kind, with noise for images.

    Returns
    -------
    Tensor, shape (number, C, size, size, size)
        The masks of a refinement net hold a cube; that of the last crop is empty. A judge's
        patches have their own size.
    """
    generator = torch.Generator().manual_seed(seed)
    if isinstance(net, JudgeNet):
        return torch.randn((number, 3, PATCH, PATCH, PATCH), generator=generator)
    second = isinstance(net, RefinementNet)
    channels = len(CHANNELS) + (len(EXTRA_CHANNELS) if second else 0)
    images = torch.randn((number, channels, *(size,) * 3), generator=generator)
    images[:, 3:6] = 1
    if second:
        images[:, -2].sigmoid_()
        images[:, -1] = 0
        images[:-1, -1, size // 4 : -size // 4, size // 4 : -size // 4, size // 4 : -size // 4] = 1
    return images


def describe(cascade: Cascade, notes: Mapping[str, Any]) -> dict[str, Any]:
    """Say how the nets are used; the content of ``cascade.json``."""
    members = {
        name: {"file": f"{name}.onnx", "outputs": OUTPUTS[net.config.kind], **net.config.as_dict()}
        for name, net in _members(cascade).items()
    }
    return {
        "format": FORMAT,
        "name": cascade.name,
        "version": cascade.version,
        "source_sha256": cascade.sha256,
        "members": members,
        "preprocessing": PREPROCESSING,
        "decision": DECISION,
        "operating_point": asdict(cascade.point),
        "notes": dict(notes),
    }


PREPROCESSING: Mapping[str, Any] = {
    "grid": "1 mm isotropic along the axes of the FLAIR, 4 mm around the brain",
    "registration": "T1w and T2w rigidly onto the FLAIR",
    "bias_field": "removed from every contrast",
    "intensity": "minus the mean, divided by the standard deviation, of the brain's voxels "
    "between the 1st and the 99th percentile; clipped to -5 and 5",
    "outside_brain": BACKGROUND,
    "missing_contrast": "its channel and its channel of presence are 0 everywhere",
    "channels": CHANNELS,
    "further_channels_of_refinement": EXTRA_CHANNELS,
    "tile": TILE,
    "stride": STRIDE,
    "crop": CROP,
    "patch": PATCH,
    "missing_contrast_of_judge": "0 in the brain",
}
DECISION: Mapping[str, str] = {
    "candidate": "mean of the candidate nets' sigmoid(logits), overlapping tiles averaged with a "
    "weight that falls towards their rim; a candidate is a 26-connected component of at least 3 "
    "voxels where it reaches the gate; those wider than 24 voxels are divided",
    "refinement": "means of the refinement nets' sigmoid(voxels) and sigmoid(lesion) on a crop "
    "around each candidate",
    "judge": "mean of the judges' softmax(logits)[1] on the patch of FLAIR, T1w and T2w around "
    "each voxel of a candidate",
    "final": "in a candidate, where verdict is above 0, the sigmoid of the weighted sum of logits "
    "of probabilities kept between 0.001 and 0.999: lesion probability (weight verdict), judge "
    "(weight judge), and of the rest 1 - second for the candidate nets, second for the "
    "refinement nets' voxels; else the mean of both voxel probabilities, that of the refinement "
    "nets with the weight second, but at most the lesion "
    "probability bent linearly so that keep falls on one half; 0 elsewhere. Where trust is above "
    "0, the images correct it: bids_msseg/cascade/adaptation.py",
    "mask": "where the final probability reaches threshold",
}


def import_cascade(folder: Path) -> Cascade:
    """Read the weights of a folder that :func:`export_cascade` wrote back into our nets.

    Parameters
    ----------
    folder : path

    Returns
    -------
    Cascade
        ``sha256`` is that of the weights file that was exported.

    Raises
    ------
    DataError
        If a file is missing, damaged, or not of our nets.
    UsageError
        If the packages for ONNX are missing.
    """
    require_onnx()
    description = read_description(folder)
    nets = [
        _rebuild(folder, name, member) for name, member in sorted(description["members"].items())
    ]
    candidate = tuple(net for net in nets if isinstance(net, CandidateNet))
    refinement = tuple(net for net in nets if isinstance(net, RefinementNet))
    if not (candidate and refinement):
        raise _foreign(folder, "it does not hold a candidate net and a refinement net")
    return Cascade(
        str(description["name"]),
        str(description["version"]),
        candidate,
        refinement,
        OperatingPoint(**{k: float(v) for k, v in description["operating_point"].items()}),
        str(description["source_sha256"]),
        tuple(net for net in nets if isinstance(net, JudgeNet)),
    )


def read_description(folder: Path) -> dict[str, Any]:
    """Read and check ``cascade.json``.

    Raises
    ------
    DataError
        If it is missing or not ours.
    """
    try:
        content = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"{DESCRIPTION} does not say {FORMAT}")
        OperatingPoint(**{k: float(v) for k, v in content["operating_point"].items()})
        for member in content["members"].values():
            NetConfig(member["kind"], tuple(int(width) for width in member["widths"]))
        return dict(content, notes=dict(content["notes"]))
    except KeyError as error:
        raise _foreign(folder, f"{DESCRIPTION} has no {error}") from error
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise _foreign(folder, str(error)) from error


def _rebuild(folder: Path, name: str, member: Mapping[str, Any]) -> Net:
    widths = tuple(int(width) for width in member["widths"])
    weights = read_weights(folder / f"{name}.onnx")
    try:
        norm = str(member.get("norm", "instance"))
        net = build(NetConfig(str(member["kind"]), widths, norm))
        wanted = net.state_dict()
        known = {key: value for key, value in weights.items() if key in wanted}
        # batch normalisation counts its batches there, and nothing reads them
        counts = {key: value for key, value in wanted.items() if key.endswith(COUNTER)}
        net.load_state_dict(counts | known)
    except (RuntimeError, ValueError, TypeError, LookupError) as error:
        raise _foreign(folder / f"{name}.onnx", str(error)) from error
    return net.eval()


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the named constants of an ONNX file.

    The exporter writes equal weights once and hands them on by Identity nodes; these are
    followed.

    Returns
    -------
    dict of str to Tensor
        In single precision.

    Raises
    ------
    DataError
        If it is missing or no ONNX file.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.load(str(path), load_external_data=False).graph
        weights = {
            item.name: torch.from_numpy(onnx.numpy_helper.to_array(item).astype(np.float32))
            for item in graph.initializer
        }
    except (DecodeError, OSError, ValueError, TypeError) as error:
        raise _foreign(path, str(error)) from error
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in weights:
            weights[node.output[0]] = weights[node.input[0]]
    return weights


def largest_difference(net: Net, path: Path, *, number: int = 2, size: int = 32) -> float:
    """Run a net in torch and its ONNX file in onnxruntime on the same input, on the CPU.

    Parameters
    ----------
    net : CandidateNet, RefinementNet or JudgeNet
    path : path
    number, size : int
        Inputs, and their edge in voxels.

    Returns
    -------
    float
        Largest difference of any output, logits, divided by the largest logit where that is
        above one: normalisation over many voxels rounds by a share, not by a fixed amount.
    """
    import onnxruntime

    images = example_input(net, number=number, size=size, seed=1)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    seen: list[NDArray[np.float32]] = session.run(
        list(OUTPUTS[net.config.kind]), {"images": images.numpy()}
    )
    with torch.inference_mode():
        known = net.eval()(images)
    expected = known if isinstance(known, tuple) else (known,)
    pairs = [(one.numpy(), other) for one, other in zip(expected, seen, strict=True)]
    return max(
        float(np.abs(one - other).max() / max(1.0, np.abs(one).max())) for one, other in pairs
    )


def check_export(cascade: Cascade, folder: Path) -> float:
    """Compare every exported net with ours, on inputs of the size that it is used with.

    Returns
    -------
    float
        The largest difference, see :func:`largest_difference`.

    Raises
    ------
    DataError
        If it is more than rounding.
    """
    worst = 0.0
    for name, net in _members(cascade).items():
        size = TILE if isinstance(net, CandidateNet) else CROP
        # two crops, one of them without a candidate
        number = 1 if isinstance(net, CandidateNet) else 2
        found = largest_difference(net, folder / f"{name}.onnx", number=number, size=size)
        if not found < TOLERANCE:
            raise DataError(
                f"{name}.onnx differs by {found:.2g} from the net that it was made of",
                hint="do not use it; try other versions of onnxruntime and torch",
            )
        worst = max(worst, found)
    return worst


def _foreign(path: Path, why: str) -> DataError:
    reason = " ".join(why.split())[:LONGEST_REASON]
    return DataError(
        f"{path} was not exported by msseg-export: {reason}",
        hint="give a folder as msseg-export wrote it; nets of other makers cannot be read",
    )
