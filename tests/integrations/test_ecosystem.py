"""Nipoppy, BABS and DataLad: files that agree with the app, and runs of these programs.

``make ecosystem`` installs the programs below MSSEG_ECOSYSTEM and runs the marked tests.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from bids_msseg import __version__
from bids_msseg.bids.derivatives import OUTPUTS
from bids_msseg.cli.run import bids_exec_spec, parse_args
from bids_msseg.errors import ExitCode
from bids_msseg.process import _closing_line
from bids_msseg.workflow.plugins import KILLED

ROOT = Path(__file__).resolve().parents[2]
NIPOPPY = ROOT / f"integrations/nipoppy/bids_msseg-{__version__}"
BABS = ROOT / "integrations/babs/bids_msseg.yaml"
IMAGE = (ROOT / "integrations/image.txt").read_text().strip()
DATALAD = ROOT / "integrations/datalad/run.sh"
WRITES_SCRIPT = """
import sys
from babs.container import Container
from babs.input_datasets import InputDatasets
container = Container("/nowhere", "bids-msseg-0-1-0", sys.argv[1])
inputs = InputDatasets("subject", container.config["input_datasets"])
inputs.update_abs_paths(sys.argv[3])
container.generate_bash_run_bidsapp(sys.argv[2], inputs, "subject")
"""
RECORDS_WORDS = """#!/bin/bash
printf '%s\\n' "$@" > "$WORDS"
echo masks > outputs/bids_msseg/dataset_description.json
"""


def run_output_names() -> list[str]:
    return (ROOT / "tests/e2e/expected_outputs.txt").read_text().split()


def program(environment: str, name: str) -> str:
    """Find what ``make ecosystem`` installed."""
    folder = os.environ.get("MSSEG_ECOSYSTEM")
    found = folder and shutil.which(name, path=f"{folder}/{environment}/bin")
    if not found:
        pytest.skip(f"there is no {name} below MSSEG_ECOSYSTEM: `make ecosystem`")
    return found


# Nipoppy


def test_nipoppy_files_have_current_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BIDS_MSSEG_IMAGE", raising=False)
    config = json.loads((NIPOPPY / "config.json").read_text())
    assert (config["NAME"], config["VERSION"]) == ("bids_msseg", __version__)
    assert config["CONTAINER_INFO"]["URI"] == f"docker://{IMAGE}:[[PIPELINE_VERSION]]"
    descriptor = (NIPOPPY / "descriptor.json").read_text()
    assert descriptor == bids_exec_spec() + "\n", "write it again: msseg --bids-exec-spec"


def test_nipoppy_zenodo_metadata_is_complete() -> None:
    """The metadata of InvenioRDM that `nipoppy pipeline upload` adds to its own."""
    record = json.loads((NIPOPPY / "zenodo.json").read_text())
    assert record["title"].endswith(f"bids_msseg {__version__}")
    assert f"bids_msseg {__version__}" in record["description"]
    (creator,) = (one["person_or_org"] for one in record["creators"])
    assert creator == {"name": "The bids_msseg developers", "type": "organizational"}
    assert record["rights"] == [{"id": "apache-2.0"}]
    assert all(set(one) == {"subject"} for one in record["subjects"])


def test_nipoppy_tracker_paths_match_run_outputs() -> None:
    paths = json.loads((NIPOPPY / "tracker.json").read_text())["PATHS"]
    stems = [OUTPUTS["mask"].stem + ".nii.gz", OUTPUTS["lesion_stats"].stem + ".tsv"]
    assert [path.rpartition("*_")[2] for path in paths[:2]] == stems
    left = run_output_names()
    for path in paths:
        asked = path.replace("[[NIPOPPY_BIDS_PARTICIPANT_ID]]", "sub-01").replace(
            "[[NIPOPPY_BIDS_SESSION_ID]]", "ses-1"
        )
        assert any(Path(one).match(asked) for one in left), asked


@pytest.mark.ecosystem
def test_nipoppy_simulates_and_tracks_the_pipeline(surroundings: Any, tmp_path: Path) -> None:
    nipoppy = program("nipoppy", "nipoppy")
    # nipoppy looks for bosh in PATH, as in an activated environment
    path = [str(surroundings.programs), str(Path(nipoppy).parent), os.environ["PATH"]]
    environment = {"PATH": os.pathsep.join(path)}

    def run(*words: object) -> str:
        done = surroundings.call([nipoppy, *words], tmp_path, environment)
        assert done.code == 0, done.out + done.err
        return " ".join((done.out + done.err).split())

    assert "The pipeline files are all valid" in run("pipeline", "validate", NIPOPPY)
    # the installation fetches the image with one of them
    surroundings.add("apptainer", "#!/bin/sh\n")
    surroundings.add("singularity", "#!/bin/sh\n")
    study = tmp_path / "study"
    run("init", "--study", study)
    run("pipeline", "install", "--study", study, NIPOPPY, "--assume-yes")
    manifest = "participant_id\tvisit_id\tsession_id\tdatatype\n01\t1\t1\t['anat']\n"
    (study / "manifest.tsv").write_text(manifest)
    flair = study / "bids/sub-01/ses-1/anat/sub-01_ses-1_FLAIR.nii.gz"
    flair.parent.mkdir(parents=True)
    flair.touch()
    (study / "containers").mkdir(exist_ok=True)
    (study / f"containers/bids_msseg_{__version__}.sif").touch()
    run("track-curation", "--study", study, "--regenerate")
    pipeline = ["--study", study, "--pipeline", "bids_msseg"]
    printed = run("process", *pipeline, "--simulate")
    assert "--participant-label 01" in printed
    assert "--session-label 1" in printed

    status = study / "derivatives/processing_status.tsv"
    out = study / f"derivatives/bids_msseg/{__version__}/output"
    run("track-processing", *pipeline)
    assert status.read_text().splitlines()[1].endswith("\tFAIL")
    for name in run_output_names():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).touch()
    run("track-processing", *pipeline)
    assert status.read_text().splitlines()[1].endswith("\tSUCCESS")


# BABS


def babs_arguments(config: dict[str, Any]) -> list[str]:
    options = dict(config["bids_app_args"])
    flag = options.pop("$SUBJECT_SELECTION_FLAG")
    given = [f"{name} {value}".strip() for name, value in options.items()]
    return shlex.split(" ".join(["/in /out participant", *given, flag, "sub-01"]))


def test_babs_config_uses_existing_options() -> None:
    config = yaml.safe_load(BABS.read_text())
    asked = parse_args(babs_arguments(config))
    assert asked.query.participant_label == ("01",)
    assert asked.query.skip_bids_validation
    assert asked.work_dir.name == "$BABS_TMPDIR"
    assert asked.execution.stop_on_first_crash
    assert config["zip_foldernames"] == {"bids_msseg": __version__.replace(".", "-")}


def test_babs_alert_messages_match_app_messages() -> None:
    found = yaml.safe_load(BABS.read_text())["alert_log_messages"]
    assert set(found) == {"stderr"}  # the app logs there
    messages = found["stderr"]
    ends = [one for one in messages if one.startswith("exit code ")]
    known = {_closing_line(code) for code in ExitCode if code is not ExitCode.SUCCESS}
    assert set(ends) <= known
    assert messages[-len(ends) :] == ends
    assert KILLED in messages
    assert os.strerror(errno.ENOSPC) in messages
    assert os.strerror(errno.EDQUOT) in messages


@pytest.mark.ecosystem
def test_babs_writes_a_script_that_runs(surroundings: Any, tmp_path: Path) -> None:
    python = program("babs", "python")
    script = tmp_path / "code/run.sh"
    done = surroundings.call([python, "-c", WRITES_SCRIPT, BABS, script, tmp_path], tmp_path)
    assert done.code == 0, done.err
    surroundings.add("singularity", RECORDS_WORDS)
    surroundings.add("7z", '#!/bin/sh\ntouch "$2"\n')
    recorded = tmp_path / "words"
    done = surroundings.call(["bash", script, "sub-07"], tmp_path, {"WORDS": str(recorded)})
    assert done.code == 0, done.err
    words = recorded.read_text().split("\n")[:-1]
    image = words.index("containers/.datalad/environments/bids-msseg-0-1-0/image")
    assert words[:image] == ["run", "-B", str(tmp_path), "--containall"]
    asked = parse_args(words[image + 1 :])
    assert asked.query.participant_label == ("07",)
    assert asked.bids_dir == tmp_path / "inputs/data/BIDS"
    assert asked.work_dir == tmp_path / ".git/tmp/wkdir"
    assert (tmp_path / f"sub-07_bids_msseg-{__version__.replace('.', '-')}.zip").is_file()


# DataLad


@pytest.mark.ecosystem
def test_datalad_records_a_run(
    surroundings: Any, make_phantom: Any, bright_model: Path, tmp_path: Path
) -> None:
    datalad = program("babs", "datalad")
    if shutil.which("git-annex") is None:
        pytest.skip("git-annex is not installed")
    environment = {
        "PATH": os.pathsep.join(
            [str(surroundings.programs), str(Path(datalad).parent), os.environ["PATH"]]
        ),
        # the image is a plain script
        "CALL": "sh {img} {cmd}",
    }
    for name, value in (("user.name", "Somebody"), ("user.email", "somebody@example.org")):
        subprocess.run(
            ["git", "config", "--global", name, value],
            env=surroundings.environment(environment),
            check=True,
        )
    raw, superdataset = tmp_path / "raw", tmp_path / "super"
    flair = raw / "sub-02/anat/sub-02_FLAIR.nii.gz"
    make_phantom("RAS", (2.0, 2.0, 4.0)).write(flair, "FLAIR")
    about = {"Name": "Phantoms", "BIDSVersion": "1.10.1", "License": "CC0"}
    (raw / "dataset_description.json").write_text(json.dumps(about))
    (raw / "FLAIR.json").write_text(json.dumps({"SkullStripped": True}))
    options = f"--model {bright_model} --nprocs 1 --omp-nthreads 1"
    image = tmp_path / "image.sh"
    image.write_text(f'PYTHONPATH={ROOT} exec {sys.executable} -m bids_msseg "$@" {options}\n')
    for words in (["create", "--force", raw], ["save", "-d", raw, "-m", "Add images"]):
        done = surroundings.call([datalad, *words], tmp_path, environment)
        assert done.code == 0, done.out + done.err
    done = surroundings.call([DATALAD, superdataset, raw, image, "02"], tmp_path, environment)
    assert done.code == 0, done.out + done.err

    mask = "outputs/bids_msseg/sub-02/anat/sub-02_space-FLAIR_label-L_mask.nii.gz"
    assert (superdataset / mask).is_symlink()
    assert (superdataset / mask).is_file()
    log = surroundings.call(["git", "log", "-1", "--format=%B"], superdataset, environment).out
    assert log.startswith("[DATALAD RUNCMD] Segment lesions of sub-02")
    assert '"exit": 0' in log
    state = surroundings.call(["git", "status", "--short"], superdataset, environment).out
    assert state == ""
    # the clone of the input is unchanged
    inputs = superdataset / "inputs/raw"
    assert surroundings.call(["git", "status", "--short"], inputs, environment).out == ""
