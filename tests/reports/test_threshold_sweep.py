from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bids_msseg.bids.derivatives import OUTPUTS
from bids_msseg.bids.files import load_tsv
from bids_msseg.bids.record import VisitRecord, read_records
from bids_msseg.bids.visit import Visit
from bids_msseg.errors import CannotCreateError
from bids_msseg.imaging.volume import Volume, save_volume
from bids_msseg.reports.threshold_sweep import (
    SWEEP_COLUMNS,
    THRESHOLDS,
    sweep,
    write_threshold_sweep,
)

EDGES = np.diag([2.0, 2.0, 2.0, 1.0])


@pytest.fixture
def probability() -> Volume:
    """A lesion of 64 mm³ at .85 and of 32 mm³ at .35, and a voxel of 8 mm³ at .55."""
    data = np.zeros((12, 6, 6), np.float32)
    data[1:3, 1:3, 1:3] = 0.85
    data[6:8, 1:3, 1] = 0.35
    data[10, 4, 4] = 0.55
    return Volume(data, EDGES)


def test_loads_and_counts_by_threshold(probability: Volume) -> None:
    found = sweep(probability, min_volume=3.0)
    assert [found[cut][1] for cut in THRESHOLDS] == [3, 3, 3, 2, 2, 1, 1, 1, 0]
    loads = [found[cut][0] for cut in THRESHOLDS]
    assert loads == pytest.approx([0.104] * 3 + [0.072] * 2 + [0.064] * 3 + [0.0])


def test_sweep_ignores_lesions_below_min_volume(probability: Volume) -> None:
    found = sweep(probability, min_volume=10.0)
    assert [found[cut][1] for cut in THRESHOLDS] == [2, 2, 2, 1, 1, 1, 1, 1, 0]


def test_sweep_compares_threshold_in_precision_of_map() -> None:
    data = np.full((2, 1, 1), 0.3, np.float32)
    found = sweep(Volume(data, EDGES), min_volume=0.0, thresholds=[0.3])
    assert found == {0.3: (pytest.approx(0.016), 1)}


def test_sweep_table_lists_all_thresholds_of_finished_visits(
    tmp_path: Path, probability: Volume, make_record: Callable[..., VisitRecord]
) -> None:
    mapped = OUTPUTS["probseg"].path(tmp_path, Visit("01", "1", Path()), ".nii.gz")
    mapped.parent.mkdir(parents=True)
    save_volume(probability, mapped)
    broken = OUTPUTS["probseg"].path(tmp_path, Visit("03", None, Path()), ".nii.gz")
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"no image")
    records = [
        make_record("01", "1"),
        make_record("02", None, options={"min_lesion_volume": 3.0}),
        make_record("03", None),
        VisitRecord("04", None, "", "skipped"),
    ]
    path = write_threshold_sweep(tmp_path, records)
    assert path == tmp_path / "group_lesions_thresholds.tsv"
    rows = load_tsv(path)
    sidecar: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
    assert list(rows[0]) == list(sidecar) == list(SWEEP_COLUMNS)
    assert all(column["Description"] for column in sidecar.values())
    by_visit: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        by_visit.setdefault(row["participant_id"], []).append(row)
    assert list(by_visit) == ["sub-01", "sub-02", "sub-03"]
    for visit in by_visit.values():
        assert [float(row["threshold"]) for row in visit] == list(THRESHOLDS)
    first = by_visit["sub-01"]
    assert [row["lesion_count"] for row in first] == list("333221110")
    assert {row["session_id"] for row in first} == {"ses-1"}
    assert {row["mask_threshold"] for row in first} == {"0.4"}
    assert {row["min_lesion_volume_mm3"] for row in first} == {"3"}
    assert {row["mask_threshold"] for row in by_visit["sub-02"]} == {"n/a"}
    for key in ("sub-02", "sub-03"):
        values = {(row["lesion_load_ml"], row["lesion_count"]) for row in by_visit[key]}
        assert values == {("n/a", "n/a")}


def test_sweep_table_of_out_dir_fixture_has_one_lesion(out_dir: Path) -> None:
    rows = load_tsv(write_threshold_sweep(out_dir, read_records(out_dir)))
    assert len(rows) == len(THRESHOLDS)
    assert {row["lesion_count"] for row in rows} == {"1"}


def test_sweep_table_without_visits_is_empty(tmp_path: Path) -> None:
    assert load_tsv(write_threshold_sweep(tmp_path, [])) == []


def test_unwritable_sweep_sidecar_raises_error(tmp_path: Path) -> None:
    (tmp_path / "group_lesions_thresholds.json").mkdir()
    with pytest.raises(CannotCreateError):
        write_threshold_sweep(tmp_path, [])
