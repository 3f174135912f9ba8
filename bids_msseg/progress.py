"""Progress of a run: a bar on a terminal, plain lines elsewhere, a table at the end."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Self, TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

OK: Final = "ok"
FLAGGED: Final = "flagged"
"""Finished, and something about the visit is unusual."""
_STYLES: Final = {OK: "", FLAGGED: "bold yellow"}
LONGEST_TABLE: Final = 50
PLAIN_WIDTH: Final = 160


@dataclass(frozen=True, slots=True)
class VisitOutcome:
    """One row of the final table: a visit, its status, lesions and wall time."""

    visit: str
    status: str  # ok, flagged, or why the visit is not finished
    lesions: int | None = None
    load_ml: float | None = None
    seconds: float | None = None


class Progress:
    """Show the progress of a run as a bar on a terminal, elsewhere as a line per visit."""

    def __init__(
        self,
        total_visits: int,
        *,
        enabled: bool = True,
        steps_per_visit: int | None = None,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total = total_visits
        self._enabled = enabled
        self._steps_per_visit = steps_per_visit
        self._clock = clock
        self._finished = 0
        self._steps: dict[str, int] = {}
        self._console = open_console(stream or sys.stderr)
        self._bar: _Bar | None = None
        self._start = clock()

    def __enter__(self) -> Self:
        self._start = self._clock()
        if self._enabled and self._console.is_terminal and not self._console.is_dumb_terminal:
            self._bar = _Bar(self._console, self._total, self._clock)
        return self

    def __exit__(self, *problem: object) -> None:
        self._stop_bar()

    def step(self, visit_key: str, step_name: str) -> None:
        """Report that a visit has started a step."""
        self._steps[visit_key] = self._steps.get(visit_key, -1) + 1
        other_visits = len(self._steps) - 1
        self._show(f"{visit_key} {step_name}" + (f" (+{other_visits})" if other_visits else ""))

    def finish(self, visit_key: str, status: str, seconds: float) -> None:
        """Report that a visit has ended, with its status and wall time."""
        self._steps.pop(visit_key, None)
        self._finished += 1
        if not self._enabled:
            return
        self._console.print(
            f"[{self._finished}/{self._total}] {visit_key} {status} {seconds:.0f} s"
        )
        self._show(f"{visit_key} {status}")

    def close(self, rows: Sequence[VisitOutcome] = ()) -> None:
        """Stop the bar and print the table of the visits, only of those not ok if many."""
        self._stop_bar()
        if not (self._enabled and rows):
            return
        shown = [row for row in rows if len(rows) <= LONGEST_TABLE or row.status != OK]
        if shown:
            self._console.print(_table(shown))
        counts = Counter(row.status for row in rows)
        summary = ", ".join(f"{number} {status}" for status, number in counts.most_common())
        hint = f"; {FLAGGED} visits are finished, check their pages first" * (FLAGGED in counts)
        self._console.print(f"{len(rows)} visit{'' if len(rows) == 1 else 's'}: {summary}{hint}")

    @property
    def fraction(self) -> float:
        """Share of the work that is done, in [0, 1]."""
        partial = 0.0
        if self._steps_per_visit:
            partial = sum(min(n / self._steps_per_visit, 1.0) for n in self._steps.values())
        return min((self._finished + partial) / max(self._total, 1), 1.0)

    @property
    def seconds_left(self) -> float | None:
        """Remaining wall time in s, extrapolated; None before any progress."""
        if self.fraction == 0:
            return None
        return (self._clock() - self._start) * (1 - self.fraction) / self.fraction

    def _show(self, description: str) -> None:
        if self._bar is not None:
            self._bar.update(description, self.fraction * self._total, self.seconds_left)

    def _stop_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class _Bar:
    """Live progress bar of rich; the time left counts down between updates."""

    def __init__(self, console: Console, total: int, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._progress = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeLeft(clock),
            console=console,
            expand=True,
            transient=True,
        )
        self._task = self._progress.add_task("starting", total=total, ends=None)
        self._progress.start()

    def update(self, description: str, completed: float, seconds_left: float | None) -> None:
        ends = None if seconds_left is None else self._clock() + seconds_left
        self._progress.update(self._task, description=description, completed=completed, ends=ends)

    def stop(self) -> None:
        self._progress.stop()


class TimeLeft(ProgressColumn):
    """Column that counts down to a task's field ``ends``, a reading of the clock or None."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock

    def render(self, task: Task) -> Text:
        """Write the time that is left now."""
        ends = task.fields["ends"]
        return Text("-:--" if ends is None else write_duration(max(0.0, ends - self._clock())))


def write_duration(seconds: float) -> str:
    """Format a time as h:mm:ss, or as m:ss below one hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def open_console(stream: TextIO) -> Console:
    """Create a console without markup; outside a terminal, long lines are not wrapped."""
    console = Console(file=stream, markup=False, highlight=False, emoji=False)
    if console.is_terminal:
        return console
    return Console(file=stream, markup=False, highlight=False, emoji=False, width=PLAIN_WIDTH)


def _table(rows: Sequence[VisitOutcome]) -> Table:
    table = Table(box=SIMPLE_HEAD)
    table.add_column("visit", no_wrap=True)
    table.add_column("status")
    for heading in ("lesions", "mL", "s"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row.visit,
            Text(row.status, style=_STYLES.get(row.status, "bold red")),
            "n/a" if row.lesions is None else str(row.lesions),
            "n/a" if row.load_ml is None else f"{row.load_ml:.2f}",
            "n/a" if row.seconds is None else f"{row.seconds:.0f}",
        )
    return table
