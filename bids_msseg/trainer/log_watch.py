"""Progress and expected time of training processes, from their logs while they are written."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bids_msseg.progress import write_duration
from bids_msseg.trainer.plan import Report
from bids_msseg.trainer.progress import FitProgress, append_line

LOGGER = logging.getLogger("bids_msseg")
POLL_S = 1.0


def log_line(folder: Path, stage: str, line: Report) -> None:
    """Append one line of a training log to ``<folder>/<stage>.csv``."""
    folder.mkdir(parents=True, exist_ok=True)
    append_line(folder / f"{stage}.csv", line)


class LogWatch:
    """Reader of new lines in the logs ``<network>.csv`` of a folder, which need not exist."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read = {path: path.stat().st_size for path in folder.glob("*.csv")}

    def poll(self) -> list[tuple[str, Report]]:
        """Return network and content of each complete line added since the last call."""
        reports: list[tuple[str, Report]] = []
        for path in sorted(self._folder.glob("*.csv")):
            with path.open("rb") as stream:
                stream.seek(self._read.get(path, 0))
                added = stream.read()
            complete = added[: added.rfind(b"\n") + 1]
            self._read[path] = self._read.get(path, 0) + len(complete)
            for text in complete.decode("utf-8").splitlines():
                with contextlib.suppress(ValueError):
                    reports.append((path.stem, _parse(text)))
        return reports


def _parse(text: str) -> Report:
    step, steps, loss, seconds, dice = text.split(",")
    return Report(int(step), int(steps), float(loss), float(seconds), float(dice))


@dataclass(slots=True)
class ExpectedTime:
    """Estimate of the wall time of a training, from the second log line of a kind of network."""

    steps: Mapping[str, int]  # that each network still needs, by name
    jobs: int = 1  # networks that are trained at a time
    seconds_per_step: dict[str, float] = field(default_factory=dict)
    lines: Counter[str] = field(default_factory=Counter)

    def add(self, stage: str, line: Report) -> str:
        """Return the new estimate as text if the line is the second of its kind, else nothing."""
        self.lines[_kind(stage)] += 1
        # the first line includes the start of the loaders
        if not self.steps.get(stage) or self.lines[_kind(stage)] != 2:
            return ""
        self.seconds_per_step[_kind(stage)] = line.seconds
        seconds = [
            steps * self.seconds_per_step[_kind(name)]
            for name, steps in self.steps.items()
            if steps and _kind(name) in self.seconds_per_step
        ]
        jobs = min(self.jobs, len(seconds))
        return (
            f"expected time of the {' and '.join(self.seconds_per_step)} networks: about "
            f"{write_duration(sum(seconds) / jobs)} ({len(seconds)} networks, {jobs} at a time)"
        )


def _kind(stage: str) -> str:
    """Return the kind of a network from its name, such as ``candidate-release``."""
    return stage.partition("-")[0]


@contextmanager
def show_progress(
    folder: Path, *, enabled: bool = True, expected: ExpectedTime | None = None
) -> Iterator[None]:
    """Show progress and expected time of all networks that log to a folder, in the context."""
    watch, finished = LogWatch(folder), threading.Event()
    with FitProgress(enabled=enabled) as progress:
        thread = threading.Thread(
            target=_show_until_finished, args=(watch, progress, finished, expected), daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            finished.set()
            thread.join()


def _show_until_finished(
    watch: LogWatch,
    progress: FitProgress,
    finished: threading.Event,
    expected: ExpectedTime | None,
) -> None:
    while True:
        last = finished.wait(POLL_S)
        for stage, line in watch.poll():
            progress.show(stage, line)
            if expected is not None and (text := expected.add(stage, line)):
                LOGGER.info("%s", text)
        if last:
            return
