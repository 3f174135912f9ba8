from __future__ import annotations

import os
import signal
import threading

import pytest

from bids_msseg.trainer import stopping as stopping_module
from bids_msseg.trainer.stopping import StopRequest, stopping


class _Told(Exception):  # noqa: N818 not an error
    pass


@pytest.fixture(params=[signal.SIGTERM, signal.SIGINT])
def number(request):
    """A signal that raises, as the program's own handlers do."""

    def handle(_number, _frame) -> None:
        raise _Told

    before = signal.signal(request.param, handle)
    yield request.param
    signal.signal(request.param, before)


def test_a_signal_waits_until_the_context_ends(number: int) -> None:
    seen = []

    def work() -> None:
        with stopping() as stop:
            seen.append(stop.requested)
            signal.raise_signal(number)
            seen.append(stop.requested)

    with pytest.raises(_Told):
        work()
    assert seen == [False, True]


@pytest.mark.parametrize("hurry", [-1.0, 1000.0])
def test_only_ctrl_c_once_more_does_not_wait(number: int, hurry: float, monkeypatch) -> None:
    monkeypatch.setattr(stopping_module, "SECOND_SIGINT_S", hurry)
    seen = []

    def work() -> None:
        with stopping():
            signal.raise_signal(number)
            seen.append("first")
            signal.raise_signal(number)
            seen.append("second")

    with pytest.raises(_Told):
        work()
    people = number == signal.SIGINT and hurry < 0
    assert seen == (["first"] if people else ["first", "second"])


def test_without_a_signal_handlers_are_as_before(number: int) -> None:
    before = signal.getsignal(number)
    with stopping() as stop:
        assert signal.getsignal(number) != before
    assert signal.getsignal(number) == before
    assert not stop.requested


def test_a_signal_to_a_forked_loader_is_not_ours(number: int) -> None:
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


def test_other_threads_hold_nothing_back() -> None:
    seen: list[StopRequest] = []

    def work() -> None:
        with stopping() as stop:
            seen.append(stop)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not seen[0].requested
