"""All cases of bad input with the whole app: code, message, hint, and no remaining files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest

from .dataset_cases import DATASET_CASES
from .image_cases import IMAGE_CASES
from .option_cases import OPTION_CASES
from .place import Case, Place, broken_texts, remains, tree

CASES = [*IMAGE_CASES, *DATASET_CASES, *OPTION_CASES]


def test_case_names_are_unique() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 120


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_is_refused(
    case: Case,
    place: Place,
    capsys: pytest.CaptureFixture[str],
    no_network: list[object],
    note_row: Callable[..., None],
) -> None:
    case.spoil(place)
    before = tree(place.bids)
    code = place.run()
    # if there was a first run as root, only the messages of the second run
    log = re.split(r"exit code \d+ \([a-z ]+\)\n(?=.)", capsys.readouterr().err)[-1]
    message, hint = _message(log)
    note_row(case.name, code, *(text.replace(str(place.root), "…") for text in (message, hint)))
    assert code == case.code, log
    assert "Traceback" not in log
    assert "(traceback" not in log
    assert re.search(case.says, message), message
    assert hint
    assert re.search(case.hint, hint), hint
    assert log.rstrip().splitlines()[-1].endswith(f"({_name(code)})")
    assert remains(place.out) == []
    assert broken_texts(place.out) == []
    assert tree(place.bids) == before
    if "template" not in case.name:
        assert no_network == []
    if case.visit:
        _check_record(place, message, hint)


def _message(log: str) -> tuple[str, str]:
    """Find the first error and its hint."""
    lines = log.splitlines()
    number = next((i for i, line in enumerate(lines) if line.startswith("  hint: ")), None)
    if number is None:
        return log, ""
    message = re.sub(r"^\d\d:\d\d:\d\d  (ERROR )?|^msseg: ", "", lines[number - 1])
    return message, lines[number].removeprefix("  hint: ")


def _name(code: int) -> str:
    from bids_msseg.errors import ExitCode

    return ExitCode(code).name.lower().replace("_", " ")


def _check_record(place: Place, message: str, hint: str) -> None:
    """The visit's record and page contain message and hint, without local paths."""
    record = json.loads((place.out / "logs/visits/sub-01.json").read_text(encoding="utf-8"))
    page = (place.out / "sub-01.html").read_text(encoding="utf-8")
    shown = message.removeprefix("sub-01 failed: ").replace(f"{place.bids}/", "")
    assert record["status"] in ("failed", "skipped")
    assert record["reason"] == shown
    assert record["hint"] == hint.replace(f"{place.bids}/", "")
    assert "This visit failed" in page
    for text in (json.dumps(record), page):
        assert str(place.root) not in text
