"""Results of visits that are no longer in the dataset."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bids_msseg.app import levels
from bids_msseg.app.absent import find_absent_visits, handle_absent
from bids_msseg.bids.record import VisitRecord, write_record
from bids_msseg.bids.visit import Selection
from bids_msseg.config import RunConfig
from bids_msseg.errors import ExitCode
from bids_msseg.workflow.locks import VisitLocks

MakeConfig = Callable[..., RunConfig]
HEADER: Any = SimpleNamespace(name="m", version="1", sha256="0" * 64)


@pytest.fixture
def configure(tmp_path: Path) -> MakeConfig:
    def make(**options: Any) -> RunConfig:
        given = {"bids_dir": tmp_path / "raw", "output_dir": tmp_path / "out"}
        return RunConfig.from_options({**given, "levels": ["participant"], **options})

    return make


def make_dataset(top: Path, *folders: str) -> None:
    """Make a dataset that consists of empty folders."""
    for folder in ("", *folders):
        (top / "raw" / folder).mkdir(parents=True)


def write_results(top: Path, key: str) -> list[Path]:
    """Write a record and outputs of a visit; return the paths of all files."""
    participant, _, session = key.partition("_")
    folder = key.replace("_", "/")
    names = (
        f"{folder}/anat/{key}_space-FLAIR_label-L_mask.nii.gz",
        f"{folder}/anat/{key}_acq-3D_desc-lesions_stats.tsv",
        f"{participant}/figures/{key}_desc-brain_FLAIR.png",
        f"lesion_roi/{folder}/anat/{key}_T1w_label-lesion_roi.nii.gz",
        f"logs/intermediate/{key}.zip",
    )
    paths = [top / "out" / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    label = session.removeprefix("ses-") or None
    record = VisitRecord(participant.removeprefix("sub-"), label, key, "ok")
    return [*paths, write_record(top / "out", record)]


@pytest.mark.parametrize(
    ("results", "folders", "absent", "remaining"),
    [
        pytest.param(
            ("sub-01_ses-1", "sub-01_ses-2"),
            ("sub-01/ses-baseline", "sub-01/ses-2"),
            ["sub-01_ses-1"],
            {"01": ["sub-01_ses-2"]},
            id="session renamed",
        ),
        pytest.param(
            ("sub-01_ses-1", "sub-01_ses-2", "sub-01_ses-3"),
            ("sub-01/ses-2",),
            ["sub-01_ses-1", "sub-01_ses-3"],
            {"01": ["sub-01_ses-2"]},
            id="sessions removed",
        ),
        pytest.param(
            ("sub-01", "sub-01_ses-1", "sub-02"),
            ("sub-01/ses-1/anat", "sub-02/anat"),
            ["sub-01"],
            {"01": ["sub-01_ses-1"]},
            id="session level added",
        ),
        pytest.param(
            ("sub-01", "sub-01_ses-1"),
            ("sub-01/anat",),
            ["sub-01_ses-1"],
            {"01": ["sub-01"]},
            id="session level removed",
        ),
        pytest.param(
            ("sub-01", "sub-02_ses-1", "sub-02_ses-2", "sub-3"),
            ("sub-01/anat",),
            ["sub-02_ses-1", "sub-02_ses-2", "sub-3"],
            {},
            id="participants removed",
        ),
    ],
)
@pytest.mark.parametrize("clean", [False, True])
def test_results_of_absent_visits_are_named_and_removed_if_requested(
    configure: MakeConfig,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    results: tuple[str, ...],
    folders: tuple[str, ...],
    absent: list[str],
    remaining: dict[str, list[str]],
    clean: bool,
) -> None:
    make_dataset(tmp_path, *folders)
    files = {key: write_results(tmp_path, key) for key in results}
    labels = sorted({key.partition("_")[0].removeprefix("sub-") for key in results})
    config = configure(clean_outputs=clean, participant_label=labels)
    visits = find_absent_visits(config)
    assert [visit.key for visit in visits] == absent
    caplog.set_level("INFO", logger="bids_msseg")
    with VisitLocks([tmp_path]) as locks:
        assert handle_absent(config, visits, locks) == (remaining if clean else {})
    for key, paths in files.items():
        removed = clean and key in absent
        assert [path.exists() for path in paths] == [not removed] * len(paths)
        assert paths[0].parent.exists() == (not removed)
    messages = [record.message for record in caplog.records if record.name == "bids_msseg"]
    assert len(messages) == (len(absent) if clean else 1)
    assert all(any(key in message for message in messages) for key in absent)
    assert any("--clean-outputs" in message for message in messages) == (not clean)


@pytest.mark.parametrize(
    ("results", "folders"),
    [
        pytest.param("sub-01_ses-1", (), id="no participant in the dataset"),
        pytest.param("sub-01", ("code", "derivatives/sub-02"), id="study folder"),
        pytest.param("sub-01_ses-1", ("sub-01", "sub-02/anat"), id="participant not fetched"),
        pytest.param("sub-01_ses-1", ("sub-01/ses-1", "sub-01/anat"), id="session not fetched"),
        pytest.param("sub-01", ("sub-01/func",), id="images removed"),
        pytest.param("sub-01", ("sub-01/anat", "sub-01/ses-1/anat"), id="both levels"),
    ],
)
def test_results_are_kept_unless_their_folder_is_absent(
    configure: MakeConfig, tmp_path: Path, results: str, folders: tuple[str, ...]
) -> None:
    make_dataset(tmp_path, *folders)
    write_results(tmp_path, results)
    assert find_absent_visits(configure(clean_outputs=True)) == ()


@pytest.mark.parametrize(
    "options",
    [
        {"participant_label": ["01"]},
        {"participant_label": ["01"], "session_label": ["1"]},
        {"session_label": ["2"]},
        {"exclude_participant_label": ["01", "02"]},
    ],
)
def test_results_of_unselected_visits_are_kept(
    configure: MakeConfig, tmp_path: Path, options: dict[str, list[str]]
) -> None:
    make_dataset(tmp_path, "sub-01/ses-1", "sub-01/ses-2", "sub-02/anat")
    for key in ("sub-01_ses-1", "sub-01_ses-2", "sub-02"):
        write_results(tmp_path, key)
    assert find_absent_visits(configure(clean_outputs=True, **options)) == ()


@pytest.mark.parametrize(
    ("bids_name", "out_name", "absent"),
    [("A", "A", ["sub-02"]), ("A", "B", []), ("", "B", []), ("A", "", ["sub-02"])],
)
def test_results_of_another_dataset_are_kept(
    configure: MakeConfig, tmp_path: Path, bids_name: str, out_name: str, absent: list[str]
) -> None:
    make_dataset(tmp_path, "sub-01/anat")
    write_results(tmp_path, "sub-02")
    title = f"bids_msseg: multiple-sclerosis lesions of {out_name}" if out_name else ""
    for folder, name in (("raw", bids_name), ("out", title)):
        (tmp_path / folder / "dataset_description.json").write_text(json.dumps({"Name": name}))
    assert [visit.key for visit in find_absent_visits(configure())] == absent


@pytest.mark.parametrize(
    ("options", "removed"),
    [
        ({}, []),
        ({"participant_label": ["01"]}, []),
        ({"participant_label": ["01", "03"]}, ["sub-03"]),
        ({"exclude_participant_label": ["03"]}, []),
    ],
)
def test_participant_without_folder_is_removed_only_if_named(
    configure: MakeConfig, tmp_path: Path, options: dict[str, list[str]], removed: list[str]
) -> None:
    make_dataset(tmp_path, "sub-01/anat")
    files = {key: write_results(tmp_path, key) for key in ("sub-01", "sub-02", "sub-03")}
    config = configure(clean_outputs=True, **options)
    with VisitLocks([tmp_path]) as locks:
        handle_absent(config, find_absent_visits(config), locks)
    gone = [key for key, paths in files.items() if not any(path.exists() for path in paths)]
    assert gone == removed


@pytest.mark.parametrize("locked", ["sub-01_ses-1", "changes of 01"])
def test_results_that_another_run_uses_are_kept(
    configure: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locked: str
) -> None:
    make_dataset(tmp_path, "sub-01/ses-2")
    kept, removed = (write_results(tmp_path, key) for key in ("sub-01_ses-1", "sub-02"))
    config = configure(clean_outputs=True, participant_label=["01", "02"])
    monkeypatch.setattr(VisitLocks, "acquire", lambda _, name: name != locked)
    with VisitLocks([tmp_path]) as locks:
        assert handle_absent(config, find_absent_visits(config), locks) == {}
    assert all(path.exists() for path in kept)
    assert not any(path.exists() for path in removed)


def test_folder_that_is_back_after_a_long_run_is_kept(
    configure: MakeConfig, tmp_path: Path
) -> None:
    make_dataset(tmp_path, "sub-01/anat")
    paths = write_results(tmp_path, "sub-02")
    config = configure(clean_outputs=True, participant_label=["01", "02"])
    visits = find_absent_visits(config)
    (tmp_path / "raw/sub-02/anat").mkdir(parents=True)
    with VisitLocks([tmp_path]) as locks:
        assert handle_absent(config, visits, locks) == {}
    assert len(visits) == 1
    assert all(path.exists() for path in paths)


@pytest.mark.parametrize(
    ("before", "after", "kept"), [("1", "2", False), ("2", "1", False), ("2", "3", True)]
)
def test_files_of_participant_are_updated_after_removal(
    configure: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: str,
    after: str,
    kept: bool,
) -> None:
    """A table of changes that mentions the removed session is written again by the comparison."""
    make_dataset(tmp_path, "sub-01/ses-2", "sub-01/ses-3", "sub-02/anat")
    for key in ("sub-01_ses-1", "sub-01_ses-2", "sub-01_ses-3", "sub-02", "sub-03"):
        write_results(tmp_path, key)
    out = tmp_path / "out"
    table = out / "sub-01/sub-01_desc-changes_stats.tsv"
    table.write_text(f"session_before\tsession_after\nses-{before}\tses-{after}\n")
    for label in ("01", "03"):
        (out / f"sub-{label}.html").touch()
    compared: list[str] = []
    written: list[str] = []

    def compare(_: object, names: list[str], __: object) -> ExitCode:
        compared.extend(names)
        return ExitCode.SUCCESS

    monkeypatch.setattr(levels, "analysis_options", lambda *_: {})
    monkeypatch.setattr(levels, "write_citation", lambda *_: None)
    monkeypatch.setattr(levels, "write_pages", lambda _, names: written.extend(names))
    monkeypatch.setattr(levels, "_compare_locked", compare)
    config = configure(clean_outputs=True, participant_label=["01", "02", "03"])
    assert levels._process(config, Selection((), ()), HEADER, None) == ExitCode.SUCCESS
    assert (compared, written) == (["01"], ["01"])
    assert table.exists() == kept
    assert [path.name for path in sorted(out.glob("sub-*"))] == ["sub-01", "sub-01.html", "sub-02"]
    records = sorted(path.stem for path in (out / "logs/visits").iterdir())
    assert records == ["sub-01_ses-2", "sub-01_ses-3", "sub-02"]


@pytest.mark.parametrize(("clean", "fate"), [(False, "kept"), (True, "removed")])
def test_dry_run_lists_absent_visits_and_keeps_results(
    configure: MakeConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    clean: bool,
    fate: str,
) -> None:
    make_dataset(tmp_path, "sub-01/ses-2")
    paths = [path for key in ("sub-01_ses-1", "sub-02") for path in write_results(tmp_path, key)]
    config = configure(dry_run=True, clean_outputs=clean, participant_label=["01", "02"])
    assert levels._dry_run(config, Selection((), ()), HEADER) == ExitCode.SUCCESS
    output = capsys.readouterr().out
    for key in ("sub-01_ses-1", "sub-02"):
        assert f"{key}: no longer in the dataset: its results would be {fate}\n" in output
    assert all(path.exists() for path in paths)


@pytest.mark.parametrize(
    ("folders", "absent"),
    [((), ""), (("sub-01/anat", "sub-02/anat"), ""), (("sub-02/ses-1",), "sub-01, sub-02")],
)
def test_group_level_names_absent_visits(
    configure: MakeConfig,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    folders: tuple[str, ...],
    absent: str,
) -> None:
    make_dataset(tmp_path, *folders)
    paths = [path for key in ("sub-01", "sub-02") for path in write_results(tmp_path, key)]
    levels._check_group(configure(levels=["group"], clean_outputs=True))
    expected = f"no longer in the dataset are in the output folder: {absent}\n"
    assert (expected in caplog.text) == bool(absent)
    assert ("no longer in the dataset" in caplog.text) == bool(absent)
    assert all(path.exists() for path in paths)
