"""Progress of a training: one bar per network on a terminal, lines elsewhere, a CSV log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self, TextIO

from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as RichProgress

from bids_msseg.progress import TimeLeft, open_console, write_duration
from bids_msseg.trainer.plan import Report

COLUMNS = ("step", "steps", "loss", "seconds_per_step", "dice")


def append_line(path: Path, line: Report) -> None:
    """Append one line to a CSV log; a new file begins with the column names."""
    new = not path.exists()
    with path.open("a", encoding="utf-8") as stream:
        if new:
            stream.write(",".join(COLUMNS) + "\n")
        stream.write(
            f"{line.step},{line.steps},{line.loss:.5f},{line.seconds:.3f},{line.dice:.4f}\n"
        )


def describe(line: Report) -> str:
    """Format a line of a training log as readable text."""
    return f"{line.step}/{line.steps} {_quality(line)}, {write_duration(line.seconds_left)} left"


def _quality(line: Report) -> str:
    return f"loss {line.loss:.3f} Dice {line.dice:.3f}"


class FitProgress:
    """Context manager that shows one bar per network on a terminal, lines elsewhere."""

    def __init__(
        self,
        *,
        enabled: bool = True,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._enabled, self._clock = enabled, clock
        self._console = open_console(stream or sys.stderr)
        self._bars: RichProgress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        if self._enabled and self._console.is_terminal and not self._console.is_dumb_terminal:
            self._bars = RichProgress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[quality]}", markup=False),
                TimeLeft(self._clock),
                console=self._console,
                expand=True,
                transient=True,
            )
            self._bars.start()
        return self

    def __exit__(self, *problem: object) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def show(self, stage: str, line: Report) -> None:
        """Show the progress of the network ``stage``; may be called from any thread."""
        if not self._enabled:
            return
        if self._bars is None:
            self._console.print(f"{stage} {describe(line)}")
        else:
            self._update_bar(self._bars, stage, line)

    def _update_bar(self, bars: RichProgress, stage: str, line: Report) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = bars.add_task(stage, total=line.steps, quality="", ends=None)
        bars.update(
            self._tasks[stage],
            completed=line.step,
            quality=_quality(line),
            ends=self._clock() + line.seconds_left,
        )
        if line.step >= line.steps:
            # a finished network leaves a line above the bars of the others
            bars.remove_task(self._tasks.pop(stage))
            self._console.print(f"{stage} {line.steps} steps {_quality(line)}")
