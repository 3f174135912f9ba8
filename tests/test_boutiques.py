from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest

import bids_msseg
from bids_msseg.cli.run import (
    bids_exec_spec,
    build_parser,
    main,
    parse_args,
    visible_options,
)
from bids_msseg.config import RunConfig
from bids_msseg.errors import ExitCode

BOSH = Path(sysconfig.get_path("scripts")) / "bosh"
INVOCATION: dict[str, Any] = {
    "InputDataset": "/bids",
    "OutputLocation": "/out",
    "AnalysisLevel": "participant",
    "SubjectLabel": ["01", "sub-02"],
    "SessionLabel": ["1"],
    "SkipBidsValidation": True,
    "Derivatives": ["brains=/brains", "more=/more"],
    "OutputSpaces": ["FLAIR", "MNI152NLin2009aSym:res-1", "qsm=/a/x.nii.gz:T1w"],
    "Atlas": ["sides", "Schaefer2018:desc-100Parcels7Networks"],
    "FillLesions": True,
    "LesionRoi": True,
    "Threshold": 0.4,
    "MinLesionVolume": 3,
    "SkullStripped": "auto",
    "Fast": True,
    "RandomSeed": 1,
    "NProcs": 2,
    "OmpNThreads": 2,
    "MemGb": 5.5,
    "Device": "cuda:0",
    "WorkDir": "/scratch",
    "Verbose": True,
    "NoTrack": True,
}


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> str:
    """Output of ``--bids-exec-spec``."""
    assert main(["--bids-exec-spec"]) == 0
    return capsys.readouterr().out


@pytest.fixture
def descriptor(printed: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(printed)
    return content


def _bosh(folder: Path, *words: object) -> str:
    """Run Boutiques; it keeps its cache in HOME."""
    done = subprocess.run(
        [BOSH, *map(str, words)],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
        env={"HOME": str(folder), "PATH": "/usr/bin:/bin"},
    )
    return done.stdout


def test_boutiques_accepts_the_descriptor(printed: str, tmp_path: Path) -> None:
    (tmp_path / "boutiques.json").write_text(printed, encoding="utf-8")
    assert _bosh(tmp_path, "validate", "boutiques.json").strip() == "OK"


def test_boutiques_writes_a_command_line_that_the_parser_accepts(
    printed: str, tmp_path: Path
) -> None:
    (tmp_path / "boutiques.json").write_text(printed, encoding="utf-8")
    (tmp_path / "invocation.json").write_text(json.dumps(INVOCATION), encoding="utf-8")
    shown = _bosh(tmp_path, "exec", "simulate", "boutiques.json", "-i", "invocation.json")
    program, *words = shlex.split(shown.splitlines()[-1])
    assert program == "msseg"
    expected = RunConfig.from_options(
        {
            "bids_dir": "/bids",
            "output_dir": "/out",
            "levels": ["participant"],
            "participant_label": ["01", "02"],
            "session_label": ["1"],
            "skip_bids_validation": True,
            "derivatives": {"brains": "/brains", "more": "/more"},
            "output_spaces": [
                "FLAIR",
                "MNI152NLin2009aSym:res-1",
                "qsm=/a/x.nii.gz:T1w",
            ],
            "atlas": ["sides", "Schaefer2018:desc-100Parcels7Networks"],
            "fill_lesions": True,
            "lesion_roi": True,
            "threshold": 0.4,
            "fast": True,
            "random_seed": 1,
            "nprocs": 2,
            "omp_nthreads": 2,
            "mem_gb": 5.5,
            "device": "cuda:0",
            "work_dir": "/scratch",
            "verbose": 1,
        }
    )
    assert parse_args(words) == expected


def test_parser_and_descriptor_have_the_same_options(descriptor: dict[str, Any]) -> None:
    flags = [i["command-line-flag"] for i in descriptor["inputs"] if "command-line-flag" in i]
    options = [action.option_strings[-1] for action in visible_options(build_parser())]
    assert sorted(flags) == sorted(options)


def test_parser_and_descriptor_agree_on_number_of_values(descriptor: dict[str, Any]) -> None:
    def arity(action: argparse.Action) -> str:
        if action.nargs == 0:
            return "flag"
        return "list" if action.nargs == "+" else "one"

    actions = {a.option_strings[-1]: arity(a) for a in visible_options(build_parser())}
    inputs = {
        i["command-line-flag"]: "flag"
        if i["type"] == "Flag"
        else ("list" if i.get("list") else "one")
        for i in descriptor["inputs"]
        if "command-line-flag" in i
    }
    assert inputs == actions


def test_descriptor_has_inputs_required_by_specification(descriptor: dict[str, Any]) -> None:
    ids = [i["id"] for i in descriptor["inputs"]]
    assert {"AnalysisLevel", "Help", "InputDataset", "OutputLocation", "ToolVersion"} <= set(ids)
    assert len(set(ids)) == len(ids)
    assert ids[:3] == ["InputDataset", "OutputLocation", "AnalysisLevel"]
    assert not any(i["optional"] for i in descriptor["inputs"][:3])
    assert descriptor["custom"]["BIDSAppSpecVersion"]


def test_every_input_is_in_the_command_line(descriptor: dict[str, Any]) -> None:
    keys = [i["value-key"] for i in descriptor["inputs"]]
    assert descriptor["command-line"].split() == ["msseg", *keys]


def test_descriptor_lists_all_exit_codes(descriptor: dict[str, Any]) -> None:
    assert [entry["code"] for entry in descriptor["error-codes"]] == [int(c) for c in ExitCode]


def test_descriptor_contains_package_version(descriptor: dict[str, Any]) -> None:
    assert descriptor["tool-version"] == bids_msseg.__version__


def test_descriptor_refuses_combined_run_modes(descriptor: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "boutiques.json").write_text(json.dumps(descriptor), encoding="utf-8")
    for modes, accepted in (
        ({"DryRun": True}, True),
        ({"DryRun": True, "ReportsOnly": True}, False),
    ):
        (tmp_path / "invocation.json").write_text(json.dumps(INVOCATION | modes), encoding="utf-8")
        try:
            _bosh(tmp_path, "exec", "simulate", "boutiques.json", "-i", "invocation.json")
        except subprocess.CalledProcessError:
            assert not accepted
        else:
            assert accepted


def test_container_image_defaults_to_released_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BIDS_MSSEG_IMAGE", raising=False)
    named = json.loads(bids_exec_spec())["container-image"]
    public = Path(__file__).resolve().parents[1] / "integrations/image.txt"
    released = f"{public.read_text().strip()}:{bids_msseg.__version__}"
    assert named == {"type": "docker", "image": released}
    monkeypatch.setenv("BIDS_MSSEG_IMAGE", "registry.org/msseg:2")
    assert json.loads(bids_exec_spec())["container-image"]["image"] == "registry.org/msseg:2"
