from __future__ import annotations

import os
import signal
import threading

import pytest

from bids_msseg.trainer import stopping as stopping_module
from bids_msseg.trainer.stopping import StopRequest, stopping


class _SignalHandled(Exception):  # noqa: N818 not an error
    pass


@pytest.fixture(params=[signal.SIGTERM, signal.SIGINT])
def number(request):
    """A signal that raises, as the program's own handlers do."""

    def handle(_number, _frame) -> None:
        raise _SignalHandled

    before = signal.signal(request.param, handle)
    yield request.param
    signal.signal(request.param, before)


def test_signal_is_delayed_until_context_ends(number: int) -> None:
    seen = []

    def work() -> None:
        with stopping() as stop:
            seen.append(stop.requested)
            signal.raise_signal(number)
            seen.append(stop.requested)

    with pytest.raises(_SignalHandled):
        work()
    assert seen == [False, True]


@pytest.mark.parametrize("hurry", [-1.0, 1000.0])
def test_only_late_second_sigint_is_not_delayed(number: int, hurry: float, monkeypatch) -> None:
    monkeypatch.setattr(stopping_module, "SECOND_SIGINT_S", hurry)
    seen = []

    def work() -> None:
        with stopping():
            signal.raise_signal(number)
            seen.append("first")
            signal.raise_signal(number)
            seen.append("second")

    with pytest.raises(_SignalHandled):
        work()
    people = number == signal.SIGINT and hurry < 0
    assert seen == (["first"] if people else ["first", "second"])


def test_handlers_are_restored_without_signal(number: int) -> None:
    before = signal.getsignal(number)
    with stopping() as stop:
        assert signal.getsignal(number) != before
    assert signal.getsignal(number) == before
    assert not stop.requested


def test_forked_child_ignores_sigint_and_dies_on_sigterm(number: int) -> None:
    with stopping() as stop:
        child = os.fork()
        if child == 0:
            signal.raise_signal(number)
            os._exit(3 if stop.requested else 0)
        _, status = os.waitpid(child, 0)
    if number == signal.SIGTERM:
        assert os.WTERMSIG(status) == signal.SIGTERM
    else:
        assert os.waitstatus_to_exitcode(status) == 0


def test_stopping_in_other_thread_installs_no_handler() -> None:
    seen: list[StopRequest] = []

    def work() -> None:
        with stopping() as stop:
            seen.append(stop)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not seen[0].requested
