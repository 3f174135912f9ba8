"""Resource estimate for a cohort from two visits with known values."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools/plan_cohort.py"


@pytest.fixture(scope="module")
def tool() -> Any:
    spec = importlib.util.spec_from_file_location("plan_cohort", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look it up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def out(tmp_path: Path) -> Path:
    visits = tmp_path / "out/logs/visits"
    visits.mkdir(parents=True)
    for key, status, seconds in (("1", "ok", 30), ("2", "ok", 50), ("3", "failed", 7)):
        record = {"participant": "01", "status": status, "timings_s": {"a": seconds, "b": 1}}
        (visits / f"sub-01_ses-{key}.json").write_text(json.dumps(record).ljust(500))
    (tmp_path / "out/sub-01").mkdir()
    (tmp_path / "out/sub-01/mask").write_bytes(bytes(1_000_000))
    (tmp_path / "out/sub-01.html").write_bytes(bytes(998_500))
    (tmp_path / "out/README.md").write_text("of the dataset, not of a visit")
    return tmp_path / "out"


def test_step_wall_time_is_used_without_resource_monitor(tool: Any, out: Path) -> None:
    found = tool.measure(out)
    assert (found.visits, found.participants, found.cpu_s) == (2, 1, (31, 51))
    assert (found.bytes_, found.files, found.memory_gb) == (2_000_000, 5, None)
    text = tool.report(found, visits=3600, at_once=46)
    assert "47.6 core-hours, 1.03 h by the clock" in text
    assert "outputs: 3.6 GB and 9000 files" in text


def test_resource_table_gives_cpu_time_and_memory(tool: Any, out: Path, tmp_path: Path) -> None:
    rows = ["visit\tstep\tseconds\tcpu_seconds\tmemory_gb"]
    rows += [f"sub-01_ses-{n}\t{s}\t1\t{n}0\t1.{n}" for n in (1, 2) for s in ("brain", "bias")]
    (out / "logs/resources.tsv").write_text("\n".join(rows) + "\n")
    (tmp_path / "work").mkdir()
    (tmp_path / "work/image").write_bytes(bytes(4_000_000))
    found = tool.measure(out, tmp_path / "work")
    assert (found.cpu_s, found.monitored, found.memory_gb) == ((20, 40), True, 1.2)
    text = tool.report(found, visits=1000, at_once=50)
    assert "work folder: 2 MB a visit" in text
    assert "0.1 GB at a time where every job removes its own, 2 GB where all are kept" in text


def test_output_without_finished_visit_is_refused(tool: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no visit is finished"):
        tool.measure(tmp_path)
