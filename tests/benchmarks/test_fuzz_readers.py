"""Some cases of the fuzzer; ``benchmarks/fuzz_readers.py`` runs any number of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz_readers import fuzz

ONCE_ESCAPED = (623, 774, 853, 1439)
"""Infinite vox_offset, for which nibabel raises an OverflowError."""


@pytest.mark.parametrize("numbers", [range(200), ONCE_ESCAPED], ids=["first", "once escaped"])
def test_fuzzed_images_raise_only_msseg_errors(tmp_path: Path, numbers: range) -> None:
    count = fuzz(tmp_path, numbers)
    assert count.escaped == []
    assert sum(count.ends.values()) == len(numbers)
