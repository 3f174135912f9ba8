"""Fixtures that every room shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(
    os.environ.get("MSSEG_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, and say so, what needs the cohorts where they are not beside the repository."""
    if SHARED.is_dir():
        return
    reason = "the labelled and raw cohorts are not beside the repository (MSSEG_SHARED_DATA)"
    for item in items:
        if item.get_closest_marker("realdata"):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder that holds ``ms-cohort``, ``raw-heads`` and ``label-maps``; use with ``realdata``."""
    return SHARED
