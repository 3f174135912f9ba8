"""Some cases of the fuzzer; ``benchmarks/fuzz_readers.py`` runs as many as one likes."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "fuzz_readers.py"
ONCE_ESCAPED = (623, 774, 853, 1439)
"""Infinite vox_offset, for which nibabel has an OverflowError."""


@pytest.mark.parametrize("numbers", [range(200), ONCE_ESCAPED], ids=["first", "once escaped"])
def test_nothing_but_our_own_errors_escapes(tmp_path: Path, numbers: range) -> None:
    spec = importlib.util.spec_from_file_location("fuzz_readers", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    count = module.fuzz(tmp_path, numbers)
    assert count.escaped == []
    assert sum(count.ends.values()) == len(numbers)
