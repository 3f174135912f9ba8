"""Examples in docstrings of benchmarks: ``--doctest-modules`` looks in the package only."""

from __future__ import annotations

import doctest
import importlib

import pytest

MODULES = (
    "anatomy",
    "accuracy_stored",
    "accuracy_rerun",
    "accuracy_table",
    "filling",
)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_pass(name: str) -> None:
    module = importlib.import_module(name)
    done = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert done.attempted
    assert done.failed == 0
