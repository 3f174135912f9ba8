"""State of a training between two steps, and its checkpoint file."""

from __future__ import annotations

import contextlib
import io
import pickle  # nosec B403 (the name of an exception only)
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bids_msseg.errors import DataError
from bids_msseg.io.atomic import open_alone
from bids_msseg.trainer.plan import FitPlan
from bids_msseg.trainer.process_group import (
    average_over_processes,
    rank_and_size,
    rank_zero_first,
)

KEYS = frozenset({"step", "net", "average", "optimiser"})


class FitState:
    """Network (already on its device), optimiser and running mean of the weights."""

    def __init__(self, net: nn.Module, plan: FitPlan) -> None:
        self.net, self.plan = net, plan
        self.optimiser = torch.optim.AdamW(
            net.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay
        )
        self.device = next(net.parameters()).device
        self.step = 0
        self.average = {key: value.detach().clone() for key, value in net.state_dict().items()}
        # loss and Dice of the step under way, and their sums since they were last asked for
        self.current_means = torch.zeros(2, device=self.device)
        self._sums, self._count = torch.zeros(2, device=self.device), 0
        self._consistent = True

    def add(self, loss: Tensor, dice: Tensor, parts: int) -> None:
        """Accumulate the gradient of one of the ``parts`` batches of a step."""
        (loss / parts).backward()
        self.current_means += torch.stack([loss.detach(), dice.detach()]).float() / parts

    def advance(self, *, stop: bool = False) -> bool:
        """Take an optimiser step; return False without a step if any process has to stop."""
        gradients = [weight.grad for weight in self.net.parameters() if weight.grad is not None]
        flag = torch.full((1,), float(stop), device=self.device)
        average_over_processes([*gradients, self.current_means, flag])
        if stop or (rank_and_size()[1] > 1 and bool(flag > 0)):
            return False
        self._consistent = False
        self._update_weights()
        self._consistent = True
        self._sums, self._count = self._sums + self.current_means, self._count + 1
        self.current_means = torch.zeros_like(self.current_means)
        return True

    def _update_weights(self) -> None:
        warm_up = min(1.0, (self.step + 1) / 50)
        factor = self._decay_factor()
        for group in self.optimiser.param_groups:
            group["lr"] = self.plan.learning_rate * warm_up * factor
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        decay = min(self.plan.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for key, value in self.net.state_dict().items():
                if value.is_floating_point():
                    self.average[key].lerp_(value.detach(), 1 - decay)
                else:
                    self.average[key].copy_(value)

    def take_means(self) -> tuple[float, float, int]:
        """Return mean loss and Dice of the steps since the last call, and how many they were."""
        count = self._count
        loss, dice = (self._sums / max(count, 1)).tolist()
        self._sums, self._count = torch.zeros_like(self._sums), 0
        return loss, dice, count

    def pack(self) -> bytes:
        """Serialise everything that a later run needs."""
        buffer = io.BytesIO()
        torch.save(
            {
                "step": self.step,
                "net": self.net.state_dict(),
                "average": self.average,
                "optimiser": self.optimiser.state_dict(),
            },
            buffer,
        )
        return buffer.getvalue()

    def load(self, stored: Mapping[str, Any]) -> None:
        """Restore the state of :meth:`pack`; raises built-in errors if it does not fit."""
        self.net.load_state_dict(stored["net"])
        if {k: v.shape for k, v in stored["average"].items()} != {
            k: v.shape for k, v in self.average.items()
        }:
            raise ValueError("the running mean belongs to another network")
        self.optimiser.load_state_dict(stored["optimiser"])
        self.average = dict(stored["average"])
        self.step = int(stored["step"])

    def _decay_factor(self) -> float:
        """Return the current learning rate as a share of the highest, without warm-up."""
        if self.plan.schedule == "constant":
            left = self.plan.steps - self.step
            return min(1.0, left / self.plan.cooldown) if self.plan.cooldown else 1.0
        first, last = self._cycle()
        return float((1 - (self.step - first) / (last - first)) ** 0.9)

    def _cycle(self) -> tuple[int, int]:
        """Return the first and last step of the current decay of the learning rate."""
        restart = self.plan.restart
        if not 0 < restart < self.plan.steps:
            return 0, self.plan.steps
        return (0, restart) if self.step < restart else (restart, self.plan.steps)

    def save(self, path: Path) -> None:
        """Write a checkpoint atomically, on rank zero: all processes hold the same weights."""
        if rank_and_size()[0] != 0:
            return
        with open_alone(path) as stream:
            stream.write(self.pack())

    def rescue(self, path: Path) -> None:
        """Save after an error, if the last step was finished; never raise another error."""
        if self._consistent:
            with contextlib.suppress(OSError):
                self.save(path)

    def restore(self, path: Path) -> None:
        """Resume from a checkpoint, if any, that rank zero reads; DataError if it is unusable."""
        alone = rank_and_size()[1] == 1
        shared = rank_zero_first(lambda: self._restore(path, pack=not alone))
        if rank_and_size()[0] != 0:
            self.load(torch.load(io.BytesIO(shared), map_location=self.device, weights_only=True))

    def _restore(self, path: Path, *, pack: bool) -> bytes:
        if path.is_file():
            try:
                self.load(read_checkpoint(path, device=str(self.device)))
            except (LookupError, RuntimeError, TypeError, ValueError, AttributeError) as error:
                raise _unusable(path, "it does not fit the network to be trained") from error
        return self.pack() if pack else b""


def read_checkpoint(path: Path, *, device: str = "cpu", mmap: bool = False) -> dict[str, Any]:
    """Read a checkpoint (checksums only without ``mmap``); raises DataError if it is unusable."""
    try:
        if not mmap:
            _check_sums(path)
        content = torch.load(path, map_location=device, weights_only=True, mmap=mmap)
    except (
        EOFError,
        LookupError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
    ) as error:
        raise _unusable(path, "it is truncated, damaged or not a checkpoint") from error
    if not isinstance(content, dict) or not content.keys() >= KEYS:
        raise _unusable(path, "it is not a training checkpoint")
    return content


def _check_sums(path: Path) -> None:
    """Check the content against its checksums, which torch writes but does not verify."""
    with zipfile.ZipFile(path) as archive:
        bad = archive.testzip()
    if bad:
        raise ValueError(f"checksum mismatch in {bad}")


def _unusable(path: Path, reason: str) -> DataError:
    return DataError(
        f"cannot resume from the checkpoint {path}: {reason}",
        hint="restore it from a copy, or delete it to train this network from the start",
    )
