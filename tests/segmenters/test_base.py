from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bids_msseg import readers
from bids_msseg.errors import DataError, UsageError
from bids_msseg.options import CASCADE, SEGMENTERS
from bids_msseg.segmenters.base import Identity, read_settings
from bids_msseg.segmenters.choose import OPENERS, open_segmenter

IDENTITY = Identity("command", "x", "1", "MIT", "Doe 2020", 0.3)


def test_every_segmenter_but_the_cascade_can_be_opened() -> None:
    assert {CASCADE, *OPENERS} == set(SEGMENTERS)
    assert open_segmenter("samseg", {}).name == "SAMSEG"


def test_digest_covers_settings_and_files(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    given: dict[str, Any] = {"contrasts": ["FLAIR"], "files": [path]}
    first = IDENTITY.header([1, "a"], **given)
    assert (first.point.threshold, first.contrasts) == (0.3, ("FLAIR",))
    assert first == IDENTITY.header([1, "a"], **given)
    assert first.sha256 != IDENTITY.header([2, "a"], **given).sha256
    path.write_bytes(b"two")
    assert first.sha256 != IDENTITY.header([1, "a"], **given).sha256
    path.unlink()
    with pytest.raises(DataError):
        IDENTITY.header([1, "a"], **given)


def test_read_settings_returns_only_given_options() -> None:
    own = {"step": readers.integer(1)}
    assert read_settings({"step": "3", "name": "x"}, own) == {"step": 3, "name": "x"}


@pytest.mark.parametrize(
    ("options", "hint"),
    [({"stp": 1}, "did you mean step"), ({"step": 0}, "use a whole"), ({}, "set it")],
)
def test_unusable_settings_are_refused_with_hint(options: dict[str, Any], hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_settings(options, {"step": readers.integer(1)}, required=("step",))
    assert hint in caught.value.hint
