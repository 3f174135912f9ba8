"""Progress of training processes, read from their logs while they are written."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bids_msseg.trainer.plan import Report
from bids_msseg.trainer.progress import FitProgress, append_line

POLL_S = 1.0


def log_line(folder: Path, stage: str, line: Report) -> None:
    """Append one line of a training log to ``<folder>/<stage>.csv``."""
    folder.mkdir(parents=True, exist_ok=True)
    append_line(folder / f"{stage}.csv", line)


class LogWatch:
    """Reader of the lines that are added to the logs ``<network>.csv`` of a folder.

    The folder need not exist. Lines that are already there at the start are skipped.
    """

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


@contextmanager
def show_progress(folder: Path, *, enabled: bool = True) -> Iterator[None]:
    """Show the progress of all networks that log to a folder, until the context ends."""
    watch, finished = LogWatch(folder), threading.Event()
    with FitProgress(enabled=enabled) as progress:
        thread = threading.Thread(
            target=_show_until_finished, args=(watch, progress, finished), daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            finished.set()
            thread.join()


def _show_until_finished(
    watch: LogWatch, progress: FitProgress, finished: threading.Event
) -> None:
    while True:
        last = finished.wait(POLL_S)
        for stage, line in watch.poll():
            progress.show(stage, line)
        if last:
            return
