from __future__ import annotations

import inspect
import pickle

import pytest

from bids_msseg import errors
from bids_msseg.errors import DataError, ExitCode, MssegError

CODES = {
    "MssegError": 1,
    "InvalidDatasetError": 16,
    "UnknownLevelError": 17,
    "NothingSelectedError": 18,
    "UsageError": 64,
    "DataError": 65,
    "NoInputError": 66,
    "CannotCreateError": 73,
    "IoError": 74,
    "TemporaryError": 75,
}


def _error_classes() -> dict[str, type[MssegError]]:
    found = inspect.getmembers(errors, inspect.isclass)
    return {name: kind for name, kind in found if issubclass(kind, MssegError)}


def test_codes_are_those_of_the_execution_specification() -> None:
    assert {name: int(kind.code) for name, kind in _error_classes().items()} == CODES


def test_every_code_but_success_and_the_signals_has_an_error() -> None:
    signals = {ExitCode.SUCCESS, ExitCode.INTERRUPTED, ExitCode.TERMINATED}
    assert {kind.code for kind in _error_classes().values()} == set(ExitCode) - signals


def test_signals_follow_the_shell() -> None:
    assert (ExitCode.INTERRUPTED, ExitCode.TERMINATED) == (128 + 2, 128 + 15)


@pytest.mark.parametrize("kind", _error_classes().values(), ids=lambda kind: kind.__name__)
def test_an_error_survives_the_way_through_a_worker(kind: type[MssegError]) -> None:
    error = pickle.loads(pickle.dumps(kind("it broke", hint="mend it")))  # noqa: S301
    assert type(error) is kind
    assert (error.message, error.hint, error.code) == ("it broke", "mend it", kind.code)


def test_an_error_without_a_hint_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="hint"):
        DataError("it broke")  # type: ignore[call-arg]


def test_message_and_hint_are_both_shown() -> None:
    assert str(DataError("it broke", hint="mend it")) == "it broke\n  hint: mend it"
