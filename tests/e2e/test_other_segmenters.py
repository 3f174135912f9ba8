"""The whole app with an external program in place of the networks."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import pytest

from bids_msseg.workflow import run as workflow_run

from .conftest import THREADS, record, rows
from .conftest import run_here as msseg

pytestmark = pytest.mark.slow

STEMS = {"sub-02": "sub-02/anat/sub-02", "sub-03": "sub-03/anat/sub-03_acq-sag"}
CITATION = "Doe 2020, J. Bright Things 1:2"
PROGRAM = """
import sys
import time

import nibabel as nib
import numpy as np

given, brain, out, runs, how = sys.argv[1:]
open(runs, "a").write("run\\n")
if how == "fails":
    sys.exit("no licence")
if how == "sleeps":
    time.sleep(600)
image = nib.load(given)
data, inside = image.get_fdata(), nib.load(brain).get_fdata() > 0
found = 0.75 * (data > 1.8 * np.median(data[inside])).astype(np.float32)
if how == "moves":
    found = found[1:]
nib.save(nib.Nifti1Image(found, image.affine), out)
"""


@dataclass(frozen=True)
class Place:
    """Paths of the program and of the app."""

    bids: Path
    out: Path
    work: Path
    folder: Path

    @property
    def runs(self) -> int:
        """How often the program was run."""
        return len((self.folder / "runs").read_text().splitlines())

    def configure(self, how: str = "finds", **more: object) -> Path:
        """Write the configuration of the segmenter."""
        script = self.folder / "program.py"
        script.write_text(PROGRAM)
        words = [sys.executable, script, "{flair}", "{brain}", "{out}", self.folder / "runs", how]
        options = {
            "command": list(map(str, words)),
            "name": "bright",
            "version": "1.2",
            "licence": "CC0",
            "citation": CITATION,
            **more,
        }
        # values of JSON are values of TOML as well
        lines = [f"{name} = {json.dumps(value)}" for name, value in options.items()]
        path = self.folder / f"{how}.toml"
        path.write_text("\n".join(lines))
        return path

    def words(self, config: Path, out: Path | None = None) -> list[object]:
        words = [self.bids, out or self.out, "participant", "-w", self.work, *THREADS]
        words += ["--segmenter", "command", "--segmenter-config", config]
        return [*words, "--participant-label", "02", "03"]


@pytest.fixture(scope="module")
def place(finished: Any, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Process two visits with the program, over existing results of the networks."""
    top = tmp_path_factory.mktemp("other")
    out = finished.copy(top / "derivatives" / "bids_msseg")
    made = Place(finished.bids, out, top / "work", top / "program")
    made.folder.mkdir()
    config = made.configure()
    # lesion filling needs the anatomy, which this segmenter does not give
    assert msseg(*made.words(config), "--fill-lesions") == 0
    assert made.runs == 2
    assert msseg(finished.bids, out, "group") == 0
    return made


@pytest.mark.parametrize("key", STEMS)
def test_lesion_mask_is_output_of_external_program(
    place: Place, make_phantom: Callable[..., Any], key: str
) -> None:
    grids = {"sub-02": ("RAS", (2.0, 2.0, 4.0)), "sub-03": ("LIP", (2.0, 3.0, 2.0))}
    truth = make_phantom(*grids[key]).lesions
    mask = nib.load(place.out / f"{STEMS[key]}_space-FLAIR_label-L_mask.nii.gz")
    found = mask.get_fdata() > 0
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.75
    probseg = nib.load(place.out / f"{STEMS[key]}_space-FLAIR_label-L_probseg.nii.gz")
    assert probseg.get_fdata().max() == pytest.approx(0.75, abs=1e-3)
    visit = record(place.out, key)
    assert visit["lesion_count"] == 3
    assert (visit["options"]["segmenter"], visit["options"]["threshold"]) == ("command", 0.5)
    assert visit["options"]["candidate_threshold"] is None


@pytest.mark.parametrize("key", STEMS)
def test_external_segmenter_writes_no_anatomy_and_adds_note(place: Place, key: str) -> None:
    """The anatomy of the earlier run with networks is removed, too."""
    visit = record(place.out, key)
    assert (visit["brain_measures"], visit["anatomy_implausible"]) == ({}, None)
    assert sum("finds lesions only" in note for note in visit["notes"]) == 2
    assert "brainAnatomy" not in visit["figures"]
    left = {path.name for path in (place.out / key).rglob("*") if path.is_file()}
    gone = ("seg-anatomy", "brainAnatomy", "desc-filled")
    assert not {name for name in left if any(one in name for one in gone)}
    assert visit["load_interval_ml"] is None
    assert "not known" in visit["load_interval_reason"]
    table = place.out / f"{STEMS[key]}_desc-lesions_stats.tsv"
    for row in rows(table):
        assert {row[name] for name in ("p_cnn1", "p_cnn2_lesion", "confidence")} == {"n/a"}
        assert 0.5 <= float(row["p_final"]) <= 0.75 or row["status"] == "rejected"


def test_external_program_is_named_and_cited(place: Place) -> None:
    model = record(place.out, "sub-03")["model"]
    assert len(model.pop("sha256")) == 64
    assert model == {
        "name": "bright",
        "version": "1.2",
        "segmenter": "command",
        "licence": "CC0",
        "citation": CITATION,
        "contrasts": ["FLAIR"],
    }
    note = record(place.out, "sub-02")["contrasts"]["T2w"]["note"]
    assert note == "the segmenter does not read it"
    about = json.loads((place.out / "dataset_description.json").read_text())
    assert [entry["Name"] for entry in about["GeneratedBy"]] == ["bids_msseg", "bright"]
    assert about["GeneratedBy"][1]["Version"] == "1.2"
    page = (place.out / "sub-03.html").read_text(encoding="utf-8")
    texts = [
        record(place.out, "sub-03")["methods"],
        (place.out / "logs/CITATION.md").read_text(encoding="utf-8"),
        page,
    ]
    for text in texts:
        assert "bright 1.2" in text
        assert CITATION in text
        assert "convolutional" not in text
    sidecar = json.loads(
        (place.out / f"{STEMS['sub-03']}_space-FLAIR_label-L_mask.json").read_text()
    )
    assert (sidecar["ModelName"], sidecar["Segmenter"]) == ("bright", "command")
    assert sidecar["ModelCitation"] == CITATION
    table = {row["participant_id"]: row for row in rows(place.out / "group_lesions.tsv")}
    assert table["sub-03"]["model"] == "bright 1.2"
    assert table["sub-03"]["anatomy"] == "n/a"
    # other visits keep the results of the networks
    assert table["sub-01"]["model"] == "bright 0"


def test_output_texts_contain_no_local_paths(place: Place) -> None:
    texts = [
        path
        for path in (place.out / "sub-03").rglob("*")
        if path.suffix in (".json", ".tsv", ".txt")
    ]
    texts += [place.out / "sub-03.html", place.out / "logs/visits/sub-03.json"]
    texts += [place.out / "README.md", place.out / "dataset_description.json"]
    for path in texts:
        text = path.read_text(encoding="utf-8")
        assert str(place.folder) not in text, path.name
        assert sys.executable not in text, path.name


def test_bids_validator_reports_no_issues(
    place: Place, bids_issues: Callable[[Path], list[dict[str, Any]]]
) -> None:
    assert bids_issues(place.out) == []


def test_rerun_is_skipped_unless_segmenter_version_changes(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a visit was run")

    monkeypatch.setattr(workflow_run, "_run_group", refuse)
    words = place.words(place.configure())
    assert msseg(*words, "--fill-lesions") == 0
    assert "2 of 2 visits are already finished" in capsys.readouterr().err
    newer = place.configure(version="1.3")
    assert msseg(*place.words(newer), "--fill-lesions", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "model bright 1.3" in printed
    assert printed.count("would be processed") == 2
    place.configure()


def test_new_threshold_does_not_run_external_program(place: Place, tmp_path: Path) -> None:
    out = shutil.copytree(place.out, tmp_path / "bids_msseg")
    before = place.runs
    words = place.words(place.configure(), out)
    assert msseg(*words, "--fill-lesions", "--threshold", "0.8", "-w", tmp_path / "work") == 0
    assert place.runs == before
    found = record(out, "sub-03")
    assert (found["lesion_count"], found["options"]["threshold"]) == (0, 0.8)


@pytest.mark.parametrize(
    ("how", "code", "reason"),
    [
        ("fails", 1, "bright exited with code 1; its log ends: no licence"),
        ("moves", 65, "another grid"),
        ("sleeps", 75, "was stopped after"),
    ],
)
def test_failed_external_program_fails_visit(
    place: Place, tmp_path: Path, how: str, code: int, reason: str
) -> None:
    """The visit has no images, and its record has the reason of the failure."""
    out = tmp_path / "bids_msseg"
    limit = {"timeout_minutes": 0.05} if how == "sleeps" else {}
    words = place.words(place.configure(how, **limit), out)
    assert msseg(*words[:-2], "03") == code
    found = record(out, "sub-03")
    assert found["status"] == "failed"
    assert reason in found["reason"]
    assert found["hint"]
    assert not list(out.rglob("*.nii.gz"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"command": "/no/such/program {flair} {out}"}, "program not found"),
        ({"command": "x {flare} {out}"}, "unknown placeholder"),
        ({"vesion": "1"}, "unknown option vesion"),
    ],
)
def test_invalid_segmenter_config_is_refused_before_first_visit(
    place: Place,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, str],
    message: str,
) -> None:
    out = tmp_path / "bids_msseg"
    assert msseg(*place.words(place.configure("wrong", **change), out)) == 64
    assert message in capsys.readouterr().err
    assert not list(out.rglob("sub-*.json"))


@pytest.mark.parametrize(
    "words",
    [
        ["--segmenter", "samsung"],
        ["--segmenter", "command"],
        ["--segmenter", "samseg", "--model", "cascade-5"],
        ["--segmenter", "samseg", "--fast"],
        ["--segmenter", "samseg", "--lesion-masks", "drawn=MASKS"],
        ["--segmenter-config", "CONFIG"],
        ["--segmenter", "command", "--segmenter-config", "/no/such/file"],
    ],
)
def test_incompatible_segmenter_options_are_refused(
    place: Place, tmp_path: Path, words: list[str]
) -> None:
    (tmp_path / "masks").mkdir()
    places = {"CONFIG": str(place.configure()), "drawn=MASKS": f"drawn={tmp_path / 'masks'}"}
    given = [places.get(word, word) for word in words]
    assert msseg(place.bids, tmp_path / "out", "participant", *THREADS, *given) == 64
