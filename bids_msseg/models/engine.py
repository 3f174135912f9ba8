"""Device, precision and batch size with which networks run."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch

from bids_msseg.errors import UsageError


@dataclass(frozen=True, slots=True)
class Engine:
    """Device and settings with which networks run."""

    device: str = "cpu"  # cpu, cuda[:N] or mps
    bfloat16: bool = False  # of convolutions; sums stay in float32
    batch: int = 2  # tiles per forward pass

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Return the context in which the forward pass of a network runs."""
        kind = self.device.partition(":")[0]
        if kind == "mps":
            # not all versions of torch support autocast there
            return contextlib.nullcontext()
        return torch.autocast(kind, torch.bfloat16, enabled=self.bfloat16)


def choose_engine(device: str = "auto") -> Engine:
    """Choose the device, and bfloat16 if it is supported; UsageError if it is not available."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        return Engine("cpu", bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()), 2)
    if device == "mps":
        return _mps()
    if device.partition(":")[0] != "cuda":
        raise UsageError(
            f"--device {device}: no such device", hint="use auto, cpu, cuda[:N] or mps"
        )
    if not torch.cuda.is_available():
        raise UsageError(
            f"--device {device}: torch finds no GPU on this computer",
            hint="use --device cpu (or auto), or install the CUDA build of torch; "
            "in a container add --gpus all (docker) or --nv (apptainer)",
        )
    return Engine(device, bool(torch.cuda.is_bf16_supported()), 8)


def _mps() -> Engine:
    """Return the engine for an Apple GPU; one tile at a time, as it shares main memory."""
    if not torch.backends.mps.is_available():
        raise UsageError(
            "--device mps: torch finds no Apple GPU on this computer",
            hint="use --device cpu (or auto); containers cannot use an Apple GPU",
        )
    return Engine("mps", batch=1)
