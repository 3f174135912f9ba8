from __future__ import annotations

import argparse
from collections.abc import Callable

import pytest

from bids_msseg import __version__
from bids_msseg.cli import check, consensus, demo, evaluate, segment_file, train
from bids_msseg.errors import ExitCode, UsageError

PROGRAMS = {
    "msseg-check": check,
    "msseg-consensus": consensus,
    "msseg-demo": demo,
    "msseg-evaluate": evaluate,
    "msseg-file": segment_file,
    "msseg-train": train,
}
PARSERS = {name: module.build_parser for name, module in PROGRAMS.items()} | {
    "msseg-demo score": demo.build_score_parser
}
Build = Callable[[], argparse.ArgumentParser]


@pytest.mark.parametrize(("name", "build"), PARSERS.items())
@pytest.mark.parametrize("words", [[], ["--nonsense"], ["one", "two", "three", "four"]])
def test_usage_errors_refer_to_help_of_program(name: str, build: Build, words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        build().parse_args(words)
    assert f"{name} --help" in caught.value.hint


@pytest.mark.parametrize("name", PROGRAMS)
def test_unknown_option_gives_usage_exit_code(name: str) -> None:
    assert PROGRAMS[name].main(["--nonsense"]) == ExitCode.USAGE


@pytest.mark.parametrize(("name", "build"), PARSERS.items())
def test_version_names_the_program_without_its_subcommand(
    name: str, build: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        build().parse_args(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"{name.split()[0]} {__version__}\n"


@pytest.mark.parametrize(("name", "build"), PARSERS.items())
def test_parsers_are_named_as_their_programs(name: str, build: Build) -> None:
    assert build().prog == name
