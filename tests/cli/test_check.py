"""``msseg-check``: parsing of options, and complete checks of a phantom."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bids_msseg.check import run
from bids_msseg.check.jobs import Plan
from bids_msseg.check.text import LESION_COLUMNS, VISIT_COLUMNS
from bids_msseg.cli.check import main
from bids_msseg.config import RunConfig
from bids_msseg.errors import ExitCode


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[RunConfig, Plan]]:
    """Collect the requested checks instead of running them."""
    found: list[tuple[RunConfig, Plan]] = []

    def check(config: RunConfig, plan: Plan) -> ExitCode:
        found.append((config, plan))
        return ExitCode.SUCCESS

    monkeypatch.setattr(run, "check_dataset", check)
    return found


def test_defaults(asked: list[tuple[RunConfig, Plan]], tmp_path: Path) -> None:
    assert main([str(tmp_path), str(tmp_path.parent / "out")]) == ExitCode.SUCCESS
    ((config, plan),) = asked
    assert (plan.draws, plan.max_visits, plan.runs) == (3, 10, 7)
    assert config == RunConfig(tmp_path, tmp_path.parent / "out", ("participant",))


def test_check_options_are_read_like_those_of_msseg(
    asked: list[tuple[RunConfig, Plan]], tmp_path: Path
) -> None:
    (tmp_path / "brains").mkdir()
    words = [
        *("--draws", "6", "--max-visits", "2", "--seed", "9", "--session-label", "a", "ses-b"),
        *("--participant-label", "sub-01", "02", "--ignore", "T2w", "--model", "own"),
        *("--threshold", "0.3", "--min-lesion-volume", "5", "--device", "cpu", "--nprocs", "4"),
        *("--omp-nthreads", "2", "-d", f"brains={tmp_path / 'brains'}", "--skip-bids-validation"),
        *("--work-dir", str(tmp_path.parent / "work")),
    ]
    assert main([str(tmp_path), str(tmp_path.parent / "out"), *words]) == ExitCode.SUCCESS
    ((config, plan),) = asked
    assert (plan.draws, plan.max_visits) == (6, 2)
    query, processing, performance = config.query, config.processing, config.performance
    assert (query.participant_label, query.session_label) == (("01", "02"), ("a", "b"))
    assert (query.ignore, query.skip_bids_validation) == (("t2w",), True)
    assert query.derivatives == {"brains": tmp_path / "brains"}
    assert (processing.model, processing.threshold) == ("own", 0.3)
    assert (processing.min_lesion_volume, processing.random_seed) == (5.0, 9)
    assert (performance.device, performance.nprocs, performance.omp_nthreads) == ("cpu", 4, 2)
    assert config.work_dir == tmp_path.parent / "work"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["{bids}"], ExitCode.USAGE),
        (["{bids}", "{bids}"], ExitCode.USAGE),
        (["{bids}", "{out}", "--draws", "0"], ExitCode.USAGE),
        (["{bids}", "{out}", "--draws", "many"], ExitCode.USAGE),
        (["{bids}", "{out}", "--draws", "100"], ExitCode.USAGE),
        (["{bids}", "{out}", "--max-visits", "0"], ExitCode.USAGE),
        (["{bids}", "{out}", "--seed", "-1"], ExitCode.USAGE),
        (["{bids}", "{out}", "--threshold", "2"], ExitCode.USAGE),
        (["{bids}", "{out}", "--device", "tpu"], ExitCode.USAGE),
        (["{bids}", "{out}", "--model", "no-such-model"], ExitCode.USAGE),
        (["{bids}", "{out}", "--model", "no/such.safetensors"], ExitCode.NO_INPUT),
        (["{bids}/nowhere", "{out}"], ExitCode.NO_INPUT),
        (["{bids}", "{out}"], ExitCode.INVALID_DATASET),
        (["{bids}", "{bids}/below"], ExitCode.USAGE),
        (["{bids}", "{text}"], ExitCode.CANNOT_CREATE),
    ],
)
def test_exit_codes_of_msseg_check_errors(
    bright_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: ExitCode,
) -> None:
    (tmp_path / "bids").mkdir()
    (tmp_path / "text").write_text("no folder")
    places = {name: str(tmp_path / name) for name in ("bids", "out", "text")}
    model = [] if "--model" in words else ["--model", str(bright_model)]
    assert main([*(word.format(**places) for word in words), *model]) == code
    assert "hint:" in capsys.readouterr().err
    assert not list((tmp_path / "bids").iterdir())


def write_dataset(root: Path, make_phantom: Callable[..., Any], *, damaged: bool = False) -> Path:
    """Write a skull-stripped phantom with two contrasts, and one with a truncated FLAIR."""
    root.mkdir(parents=True)
    about = {"Name": "Phantoms", "BIDSVersion": "1.10.1", "DatasetType": "raw"}
    (root / "dataset_description.json").write_text(json.dumps(about))
    grids = {"FLAIR": make_phantom("RAS", (2.0, 2.0, 4.0)), "T1w": make_phantom("LPS", (2, 2, 2))}
    for label in ("01", "02")[: 1 + damaged]:
        for seed, (name, grid) in enumerate(grids.items()):
            path = root / f"sub-{label}" / "anat" / f"sub-{label}_{name}.nii.gz"
            grid.write(path, name, seed=seed, kind="int16")
    if damaged:
        path = root / "sub-02" / "anat" / "sub-02_FLAIR.nii.gz"
        path.write_bytes(path.read_bytes()[:-300])
    return root


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


@pytest.mark.slow
def test_complete_check_of_phantom(
    tmp_path: Path, make_phantom: Callable[..., Any], bright_model: Path
) -> None:
    bids, out = write_dataset(tmp_path / "raw", make_phantom), tmp_path / "out"
    words = [str(bids), str(out), "--model", str(bright_model), "--device", "cpu", "--draws", "1"]
    words += ["--nprocs", "1", "--omp-nthreads", "1"]
    assert main(words) == ExitCode.SUCCESS
    lesions, visits = rows(out / "check.tsv"), rows(out / "check_visits.tsv")
    assert tuple(lesions[0]) == tuple(LESION_COLUMNS)
    assert tuple(visits[0]) == tuple(VISIT_COLUMNS)
    assert 8 <= len(lesions) <= 16
    assert {row["found"] for row in lesions} <= {"true", "false"}
    (visit,) = visits
    assert (visit["participant_id"], visit["status"], visit["rescans"]) == ("sub-01", "ok", "1")
    assert visit["n_painted"] == str(len(lesions))
    # three ellipsoids, 3.1 mL together
    assert 1.5 < float(visit["lesion_load_ml"]) < 4.5
    assert float(visit["rescan_dice"]) > 0.5
    content = json.loads((out / "check.json").read_text())
    assert (content["Visits"], content["Settings"]["draws"]) == (1, 1)
    assert content["Load"]["smallest_change_ml"]["value"] is not None
    assert "check_visits.tsv" in (out / "check.html").read_text(encoding="utf-8")
    # a second run measures nothing again and writes identical files
    files = {path: path.read_bytes() for path in out.glob("check*")}
    kept = next((out / "logs" / "check").iterdir())
    before = kept.stat().st_mtime_ns
    assert main(words) == ExitCode.SUCCESS
    assert kept.stat().st_mtime_ns == before
    assert {path: path.read_bytes() for path in out.glob("check*")} == files


@pytest.mark.slow
def test_damaged_visit_does_not_affect_other_visit(
    tmp_path: Path, make_phantom: Callable[..., Any], bright_model: Path
) -> None:
    """With two visits in parallel, the intact one has the same results as alone."""
    bids = write_dataset(tmp_path / "raw", make_phantom, damaged=True)
    common = ["--model", str(bright_model), "--device", "cpu", "--draws", "1"]
    tables = []
    for name, options, code in (
        ("both", ["--nprocs", "2", "--omp-nthreads", "1"], ExitCode.DATA_ERROR),
        ("one", ["--participant-label", "01", "--nprocs", "1"], ExitCode.SUCCESS),
    ):
        out = tmp_path / name
        assert main([str(bids), str(out), *common, *options]) == code
        tables.append((out / "check.tsv").read_bytes())
    assert tables[0] == tables[1]
    good, bad = rows(tmp_path / "both" / "check_visits.tsv")
    assert (good["participant_id"], good["status"]) == ("sub-01", "ok")
    assert (bad["participant_id"], bad["status"]) == ("sub-02", "failed")
    assert str(tmp_path) not in bad["reason"]
