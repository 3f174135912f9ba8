from __future__ import annotations

import inspect
import pickle

import pytest

from bids_msseg import errors
from bids_msseg.errors import (
    CannotCreateError,
    DataError,
    ExitCode,
    MssegError,
    convert_os_error,
)

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


def test_exit_codes_of_errors_follow_specification() -> None:
    assert {name: int(kind.code) for name, kind in _error_classes().items()} == CODES


def test_every_failure_exit_code_has_an_error_class() -> None:
    signals = {ExitCode.SUCCESS, ExitCode.INTERRUPTED, ExitCode.TERMINATED}
    assert {kind.code for kind in _error_classes().values()} == set(ExitCode) - signals


def test_signal_exit_codes_follow_shell_convention() -> None:
    assert (ExitCode.INTERRUPTED, ExitCode.TERMINATED) == (128 + 2, 128 + 15)


@pytest.mark.parametrize("kind", _error_classes().values(), ids=lambda kind: kind.__name__)
def test_error_survives_pickling(kind: type[MssegError]) -> None:
    error = pickle.loads(pickle.dumps(kind("it broke", hint="fix it")))  # noqa: S301
    assert type(error) is kind
    assert (error.message, error.hint, error.code) == ("it broke", "fix it", kind.code)


def test_error_requires_a_hint() -> None:
    with pytest.raises(TypeError, match="hint"):
        DataError("it broke")  # type: ignore[call-arg]


@pytest.mark.parametrize("error", [OSError(13, "no access"), OSError("no access")])
def test_os_error_becomes_cannot_create_error_with_reason(error: OSError) -> None:
    with pytest.raises(CannotCreateError) as caught, convert_os_error("cannot write", hint="h"):
        raise error
    assert (caught.value.message, caught.value.hint) == ("cannot write: no access", "h")
    assert caught.value.__cause__ is error


def test_error_text_contains_message_and_hint() -> None:
    assert str(DataError("it broke", hint="fix it")) == "it broke\n  hint: fix it"
