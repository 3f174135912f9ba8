"""Orderly stop: SIGTERM and SIGINT are delayed until the work is saved."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
SECOND_SIGINT_S: Final = 2.0
"""Time in s within which a second SIGINT is the launcher's copy of the first."""


class StopRequest:
    """Record of a signal that requested the process to stop."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._received_at = 0.0
        self._owner = os.getpid()
        self._previous: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal was received."""
        return self.number is not None

    def listen(self) -> None:
        """Install the signal handlers."""
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._handle) or signal.SIG_DFL

    def restore(self) -> None:
        """Restore the previous signal handlers, and raise a received signal again."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self.number is not None:
            signal.raise_signal(self.number)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            # a forked loader ignores SIGINT: its parent process ends it
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
            return
        if not self.requested:
            self.number, self._received_at = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._received_at > SECOND_SIGINT_S:
            # a second Ctrl-C of the user ends the process at once
            signal.signal(number, self._previous[number])
            signal.raise_signal(number)


@contextmanager
def stopping() -> Iterator[StopRequest]:
    """Delay SIGTERM and SIGINT to the end of the context; check the request between steps."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    request.listen()
    try:
        yield request
    finally:
        request.restore()
