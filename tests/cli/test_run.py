from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import bids_msseg
from bids_msseg.cli.run import build_parser, main, parse_args, visible_options
from bids_msseg.config import RunConfig
from bids_msseg.errors import (
    DataError,
    ExitCode,
    MssegError,
    NothingSelectedError,
    UnknownLevelError,
    UsageError,
)
from bids_msseg.spaces import AtlasChoice, OutputSpace

LINE = ["/bids", "/out", "participant"]


@pytest.fixture
def app(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[Callable[[RunConfig], int]], list[RunConfig]]:
    """Replace the app by a function; the returned list collects its configurations."""

    def install(run: Callable[[RunConfig], int]) -> list[RunConfig]:
        asked: list[RunConfig] = []

        def recorded(config: RunConfig) -> int:
            asked.append(config)
            return run(config)

        module = ModuleType("bids_msseg.app")
        module.run = recorded  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "bids_msseg.app", module)
        return asked

    return install


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    """An existing dataset folder, and an output folder that does not exist."""
    (tmp_path / "bids").mkdir()
    return [str(tmp_path / "bids"), str(tmp_path / "out")]


# ---- parsing of options

VALUES: dict[str, tuple[list[str], object]] = {
    "--participant-label": (["sub-01", "02"], ("01", "02")),
    "--session-label": (["ses-1", "b"], ("1", "b")),
    "--session-order": (["ses-pre", "post"], ("pre", "post")),
    "--exclude-participant-label": (["sub-03", "4"], ("03", "4")),
    "--ignore": (["T1w"], ("t1w",)),
    "--skip-bids-validation": ([], True),
    "--bids-database-dir": (["/db"], Path("/db")),
    "--derivatives": (["a=/a", "b=/b"], {"a": Path("/a"), "b": Path("/b")}),
    "--lesion-masks": (
        ["m=/m", "h=/h/{subject}.nii"],
        {"m": Path("/m"), "h": Path("/h/{subject}.nii")},
    ),
    "--exclude-masks": (["m=/m"], {"m": Path("/m")}),
    "--output-spaces": (
        ["FLAIR", "MNI152NLin2009cAsym:res-2"],
        (OutputSpace("FLAIR"), OutputSpace("MNI152NLin2009cAsym", 2)),
    ),
    "--atlas": (["sides"], (AtlasChoice.parse("sides"),)),
    "--fill-lesions": ([], True),
    "--lesion-roi": ([], True),
    "--model": (["site"], "site"),
    "--segmenter": (["samseg"], "samseg"),
    "--threshold": (["0.35"], 0.35),
    "--min-lesion-volume": (["10"], 10.0),
    "--mask-values": (["5", "1"], (1, 5)),
    "--skull-stripped": (["yes"], "yes"),
    "--fast": ([], True),
    "--random-seed": (["7"], 7),
    "--nprocs": (["4"], 4),
    "--omp-nthreads": (["2"], 2),
    "--mem-gb": (["6.5"], 6.5),
    "--device": (["cuda:1"], "cuda:1"),
    "--use-plugin": (["/plugin.yml"], Path("/plugin.yml")),
    "--work-dir": (["/scratch"], Path("/scratch")),
    "--clean-workdir": ([], True),
    "--clean-outputs": ([], True),
    "--dry-run": ([], True),
    "--reports-only": ([], True),
    "--boilerplate-only": ([], True),
    "--qc": (["/qc"], Path("/qc")),
    "--threshold-sweep": ([], True),
    "--stop-on-first-crash": ([], True),
    "--resource-monitor": ([], True),
    "--verbose": ([], 1),
}
NO_VALUE = {"--bids-filter-file", "--config-file", "--notrack", "--segmenter-config"}
ANSWERS = {"--help", "--version", "--bids-exec-spec"}


def _value(config: RunConfig, flag: str) -> object:
    name = flag.removeprefix("--").replace("-", "_")
    parts = (config.query, config.processing, config.performance, config.execution)
    return next(getattr(part, name) for part in parts if hasattr(part, name))


def test_option_table_of_these_tests_is_complete() -> None:
    flags = {action.option_strings[-1] for action in visible_options(build_parser())}
    assert flags == set(VALUES) | NO_VALUE | ANSWERS


@pytest.mark.parametrize("flag", VALUES)
def test_dashes_and_underscores_in_options_are_equivalent(flag: str) -> None:
    values, expected = VALUES[flag]
    underscored = "--" + flag.removeprefix("--").replace("-", "_")
    for spelling in (flag, underscored):
        config = parse_args([*LINE, spelling, *values])
        assert _value(config, flag) == expected
    assert _value(parse_args(LINE), flag) != expected


@pytest.mark.parametrize("flag", [flag for flag in VALUES if len(VALUES[flag][0]) == 1])
def test_option_value_after_equals_sign_is_read(flag: str) -> None:
    (value,), expected = VALUES[flag]
    underscored = "--" + flag.removeprefix("--").replace("-", "_")
    assert _value(parse_args([*LINE, f"{underscored}={value}"]), flag) == expected


def test_underscores_in_values_are_kept() -> None:
    assert parse_args([*LINE, "--model=my_net"]).processing.model == "my_net"
    assert parse_args(["/b_i", "/o_u", "group"]).output_dir == Path("/o_u")


ALIASES = {
    "--n-cpus 3": ("--nprocs", 3),
    "--n_cpus 3": ("--nprocs", 3),
    "--nthreads 3": ("--nprocs", 3),
    "--n_procs 3": ("--nprocs", 3),
    "--mem 3000": ("--mem-gb", 3.0),
    "--subject-label sub-01": ("--participant-label", ("01",)),
    "--exclude_subject_label sub-01": ("--exclude-participant-label", ("01",)),
    "--nipype-plugin-file /p.yml": ("--use-plugin", Path("/p.yml")),
    "--skip_bids_validator": ("--skip-bids-validation", True),
    "--participant-labels 01": ("--participant-label", ("01",)),
    "--session-id 1": ("--session-label", ("1",)),
    "-d a=/a": ("--derivatives", {"a": Path("/a")}),
    "-d /x/a": ("--derivatives", {"a": Path("/x/a")}),
    "-w /w": ("--work-dir", Path("/w")),
    "-vv": ("--verbose", 2),
    "-v --verbose": ("--verbose", 2),
    "--participant-label 01 --participant-label 02": ("--participant-label", ("01", "02")),
}


@pytest.mark.parametrize(("words", "expected"), ALIASES.items())
def test_option_aliases_are_accepted(words: str, expected: tuple[str, object]) -> None:
    flag, value = expected
    assert _value(parse_args([*LINE, *words.split()]), flag) == value


@pytest.mark.parametrize(
    "hidden", ["--n-cpus", "--nthreads", "--mem ", "_label", "--no-fast", "--sloppy", "--low-mem"]
)
def test_help_hides_option_aliases(hidden: str) -> None:
    assert hidden not in build_parser().format_help()


@pytest.mark.parametrize(
    "words",
    [
        "/bids /out participant group --fast --participant-label 01",
        "--fast /bids /out participant group --participant-label 01",
        "/bids --fast /out participant group --participant-label 01",
        "/bids /out --participant-label 01 --fast -- participant group",
    ],
)
def test_levels_and_options_are_read_in_any_order(words: str) -> None:
    config = parse_args(words.split())
    assert config.levels == ("participant", "group")
    assert config.processing.fast
    assert config.query.participant_label == ("01",)


def test_notrack_does_nothing() -> None:
    assert parse_args([*LINE, "--notrack"]) == parse_args(LINE)


def test_options_passed_by_babs_are_read() -> None:
    words = "--skip-bids-validation --participant-label sub-0001 -w /tmp/b -v -v --notrack"
    config = parse_args([*LINE, *words.split()])
    assert config.query.participant_label == ("0001",)
    assert config.execution.verbose == 2


# ---- files


def test_filter_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "filters.json"
    content = {"FLAIR": {"acquisition": "3d", "run": None}, "bold": {"task": "rest"}}
    file.write_text(json.dumps(content), encoding="utf-8")
    config = parse_args([*LINE, "--bids-filter-file", str(file)])
    assert config.query.bids_filters == {
        "flair": {"acquisition": "3d", "run": None},
        "bold": {"task": "rest"},
    }


@pytest.mark.parametrize("content", ["{", "[]", '"flair"', '{"flair": 3}'])
def test_invalid_filter_file_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "filters.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(UsageError) as error:
        parse_args([*LINE, "--bids-filter-file", str(file)])
    assert '{"flair": {"acquisition": "3d"}}' in error.value.hint


def test_command_line_overrides_config_file(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        "bids_dir = '/other'\n[processing]\nthreshold = 0.4\nfast = true\nrandom_seed = 3\n"
        "[query]\nparticipant_label = ['01']\n",
        encoding="utf-8",
    )
    words = ["--config-file", str(file), "--threshold", "0.6", "--no-fast"]
    config = parse_args([*LINE, *words])
    assert config.bids_dir == Path("/bids")
    assert (config.processing.threshold, config.processing.fast) == (0.6, False)
    assert (config.processing.random_seed, config.query.participant_label) == (3, ("01",))


def test_config_file_of_run_reproduces_its_config(tmp_path: Path) -> None:
    words = "--threshold 0.4 --fast --output-spaces FLAIR --derivatives a=/a --nprocs 2 -vv"
    first = parse_args([*LINE, *words.split()])
    (tmp_path / "run.toml").write_text(first.to_toml(), encoding="utf-8")
    assert parse_args([*LINE, "--config_file", str(tmp_path / "run.toml")]) == first


# ---- usage errors

MISTAKES: list[tuple[str, type[MssegError], str, str]] = [
    ("", UsageError, "arguments: BIDS_DIR, OUTPUT_DIR, {participant,group}", "use msseg BIDS_DIR"),
    ("/bids /out", UsageError, "arguments: {participant,group}", "several values last"),
    ("--participant-label 01 /bids /out participant", UsageError, "arguments: BIDS_DIR", "last"),
    ("/bids /out cohort", UnknownLevelError, "analysis level cohort", "participant or group"),
    ("/bids /out particpant", UnknownLevelError, "particpant", "did you mean participant?"),
    ("/bids /out participant 01", UnknownLevelError, "analysis level 01", "use"),
    ("/bids /out group --treshold 0.5", UsageError, "option --treshold", "mean --threshold?"),
    (
        "/bids /out group --min_lesion_vol=3",
        UsageError,
        "--min-lesion-vol",
        "--min-lesion-volume?",
    ),
    ("/bids /out group -x", UsageError, "unknown option -x", "msseg --help"),
    ("/bids /out group --fast yes", UsageError, "unexpected argument yes", "use msseg"),
    ("/bids /out group --threshold", UsageError, "--threshold: expected one", "msseg --help"),
    ("/bids /out group --threshold 1.5", UsageError, "--threshold: 1.5", "between 0 and 1"),
    ("/bids /out group --threshold -1", UsageError, "--threshold: -1", "between 0 and 1"),
    ("/bids /out group --nprocs 0", UsageError, "--nprocs: 0", "at least 1"),
    ("/bids /out group --device gpu", UsageError, "--device: gpu", "auto, cpu, cuda"),
    ("/bids /out group --skull-stripped maybe", UsageError, "maybe", "auto, yes or no"),
    ("/bids /out group --output-spaces T2w", UsageError, "--output-spaces", "FLAIR, T1w"),
    ("/bids /out group --atlas x.nii.gz", UsageError, "--atlas", "FILE:SPACE"),
    ("/bids /out group --atlas aseg", UsageError, "--atlas aseg needs", "freesurfer=PATH"),
    ("/bids /out group -d brains=", UsageError, "--derivatives", "NAME=PATH"),
    ("/bids /out group --lesion-masks /m/{subjct}", UsageError, "--lesion-masks", "{subject}"),
    ("/bids /out group --lesion-masks /m/{session}", UsageError, "--lesion-masks", "{subject}"),
    ("/bids /out group -d a=/a --lesion-masks a=/b", UsageError, "name a is used", "NAME=PATH"),
    ("/bids /out group --exclude-masks /m/{x}", UsageError, "--exclude-masks", "{subject}"),
    ("/bids /out group --lesion-masks own=/out", UsageError, "masks own", "another output"),
    ("/bids /out group --exclude-masks o=/out", UsageError, "masks o", "another output"),
    ("/bids /out group --mask-values 0", UsageError, "--mask-values", "above zero"),
    ("/bids /out group --mask-values any 1", UsageError, "--mask-values", "above zero"),
    ("/bids /out group --ignore flair", UsageError, "--ignore", "t1w or t2w"),
    ("/bids /out group --mem 16T", UsageError, "--mem-mb: 16T", "G or M"),
    ("/bids /out group --mem 9 --mem-gb 9", UsageError, "the same value", "one of them"),
    ("/bids /out group --skull-strip-t1w no", UsageError, ": no", "auto, skip or force"),
    ("/bids /out group --output-layout legacy", UsageError, "legacy", "use bids"),
    ("/bids /out --level full", UsageError, "arguments: {participant,group}", "last"),
    ("/bids /out group --participant-label 0_1", UsageError, "--participant-label", "letters"),
    ("/bids /out group --dry-run --reports-only", UsageError, "be combined", "one of them"),
    ("/bids /bids group", UsageError, "is the dataset itself", "derivatives"),
    ("/bids /out group -w /bids/work", UsageError, "is in the dataset", "--work-dir"),
    ("/bids /out group --config-file /none.toml", UsageError, "/none.toml cannot be read", "path"),
    ("/bids /out group --bids-filter-file /none", UsageError, "/none cannot be read", "path"),
]


@pytest.mark.parametrize(("words", "kind", "message", "hint"), MISTAKES)
def test_usage_errors_have_message_hint_and_exit_code(
    words: str,
    kind: type[MssegError],
    message: str,
    hint: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(kind) as error:
        parse_args(words.split())
    assert message in error.value.message
    assert hint in error.value.hint
    assert main(words.split()) == int(kind.code)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"msseg: {error.value}\nmsseg: exit code {int(kind.code)} ")


# ---- help and version


def test_help_fits_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["--help"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert len(lines) <= 84
    assert max(map(len, lines)) <= 80
    headings = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert headings == [
        "dataset and levels:",
        "which visits:",
        "processing:",
        "performance:",
        "other:",
    ]
    assert all(str(int(code)) in captured.out for code in ExitCode)


@pytest.mark.parametrize(
    ("flag", "unit"), [("--min-lesion-volume", "mm³"), ("--mem-gb", "GB"), ("--nprocs", "CPUs")]
)
def test_help_of_numeric_options_names_unit(flag: str, unit: str) -> None:
    (action,) = [a for a in visible_options(build_parser()) if flag in a.option_strings]
    assert unit in str(action.help)


def test_every_option_has_help_text() -> None:
    assert [a.option_strings for a in visible_options(build_parser()) if not a.help] == []


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"bids_msseg {bids_msseg.__version__}\n"


# ---- the run

OUTCOMES: dict[str, tuple[object, int]] = {
    "all well": (ExitCode.SUCCESS, 0),
    "a visit failed": (ExitCode.FAILURE, 1),
    "nothing selected": (NothingSelectedError("no visit", hint="check the labels"), 18),
    "bad data": (DataError("singular affine", hint="fix the header"), 65),
    "a bug": (ZeroDivisionError("oops"), 1),
    "ctrl-c": (KeyboardInterrupt(), 130),
}


@pytest.mark.parametrize(("outcome", "code"), OUTCOMES.values(), ids=OUTCOMES)
def test_exit_code_follows_outcome_of_app(
    outcome: object,
    code: int,
    app: Callable[[Callable[[RunConfig], int]], list[RunConfig]],
    folders: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(config: RunConfig) -> int:
        logging.getLogger("bids_msseg.app").info("%s visits", config.levels[0])
        if isinstance(outcome, BaseException):
            raise outcome
        assert isinstance(outcome, int)
        return outcome

    asked = app(run)
    assert main([*folders, "participant"]) == code
    assert [config.bids_dir for config in asked] == [Path(folders[0])]
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first.endswith("  participant visits")
    assert f"exit code {code} (" in last
    if isinstance(outcome, ZeroDivisionError):
        assert len(list((Path(folders[1]) / "logs").glob("crash-*.txt"))) == 1


def test_crashed_dry_run_creates_no_output_folder(
    app: Callable[[Callable[[RunConfig], int]], list[RunConfig]],
    folders: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(_: RunConfig) -> int:
        raise ZeroDivisionError

    app(run)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    assert main([*folders, "participant", "--dry-run"]) == 1
    assert not Path(folders[1]).exists()
    assert len(list(tmp_path.glob("crash-*.txt"))) == 1


@pytest.mark.parametrize("answer", ["--help", "--version", "--bids-exec-spec"])
def test_closed_stdout_causes_no_error(answer: str) -> None:
    """``msseg --help | true``."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "bids_msseg", answer],
        check=False,
        stdout=writing,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_arguments_default_to_sys_argv(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["msseg", "--version"])
    assert main() == 0
    assert "bids_msseg" in capsys.readouterr().out


def test_missing_input_is_found_before_the_app_is_loaded(
    app: Callable[[Callable[[RunConfig], int]], list[RunConfig]],
    folders: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = app(lambda _: 0)
    line = [*folders, "participant"]
    absent = str(tmp_path / "absent")
    assert main([absent, *line[1:]]) == 66
    assert main([*line, "-d", f"brains={absent}"]) == 66
    assert main([*line, "--lesion-masks", f"drawn={absent}/{{subject}}.nii.gz"]) == 66
    assert main([*line, "--exclude-masks", f"infarct={absent}"]) == 66
    assert main([*line, "--use-plugin", absent]) == 64
    assert asked == []
    shown = capsys.readouterr().err
    assert shown.count(absent) == 5
    assert "correct --derivatives brains=PATH" in shown
    assert "correct --lesion-masks drawn=PATH" in shown
    assert "correct --exclude-masks infarct=PATH" in shown


def test_group_level_needs_no_dataset(
    app: Callable[[Callable[[RunConfig], int]], list[RunConfig]], tmp_path: Path
) -> None:
    asked = app(lambda _: 0)
    assert main([str(tmp_path / "absent"), str(tmp_path / "out"), "group"]) == 0
    assert [config.levels for config in asked] == [("group",)]
