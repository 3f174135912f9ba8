"""Options of other BIDS Apps: their translation, and the notes about them."""

from __future__ import annotations

from pathlib import Path

import pytest

from bids_msseg.cli.run import parse_args
from bids_msseg.compatibility import (
    ALIASES,
    IGNORED_OPTIONS,
    REFUSED_OPTIONS,
    TRANSLATED_OPTIONS,
    explain,
    split_off_levels,
)
from bids_msseg.config import RunConfig
from bids_msseg.errors import UsageError
from bids_msseg.spaces import OutputSpace

LINE = ["/bids", "/out", "participant"]


def read(words: str) -> RunConfig:
    return parse_args([*LINE, *words.split()])


@pytest.mark.parametrize(
    ("words", "gigabytes"),
    [
        ("--mem 16000", 16.0),
        ("--mem_mb 16000", 16.0),
        ("--mem-mb 8000M", 8.0),
        ("--mem 16G", 16.0),
        ("--mem 12gb", 12.0),
        ("--mem=2.5G", 2.5),
        ("--mem-gb 16", 16.0),
    ],
)
def test_memory_options_are_converted_to_gigabytes(words: str, gigabytes: float) -> None:
    assert read(words).performance.mem_gb == gigabytes


@pytest.mark.parametrize("words", ["0", "16T", "much", "-5", "1e3", "", "G"])
def test_invalid_memory_value_is_refused(words: str) -> None:
    from bids_msseg import readers

    with pytest.raises(ValueError, match="G or M"):
        readers.memory(words)


@pytest.mark.parametrize("flag", IGNORED_OPTIONS)
def test_ignored_option_leaves_a_note(flag: str) -> None:
    values = {"": [], "bids": ["bids"], "N": ["3"], "NAME": ["unbiased"], "UUID": ["2026-0a1b"]}
    value = values[IGNORED_OPTIONS[flag].value]
    for spelling in (flag, "--" + flag[2:].replace("-", "_")):
        config = parse_args([*LINE, spelling, *value])
        assert config == parse_args(LINE)
        (note,) = config.notes
        assert note.startswith(f"{flag} has no effect: ")


@pytest.mark.parametrize("words", ["--debug", "--debug=all", "--debug compcor fieldmap"])
@pytest.mark.parametrize("force", ["", "--force", "--force bbr", "--force syn-sdc no-bbr"])
def test_words_after_an_option_without_effect_are_dropped(words: str, force: str) -> None:
    """Positional arguments that follow are not taken for its words."""
    before, after = f"{words} {force}".split(), f"{force} {words}".split()
    for line in ([*before, *LINE], [*LINE[:2], *after, *LINE[2:]]):
        config = parse_args(line)
        assert config == parse_args(LINE)
        assert len(config.notes) == 1 + bool(force)


@pytest.mark.parametrize("flag", REFUSED_OPTIONS)
@pytest.mark.parametrize("value", [["1"], ["filter.json"], ["1", "2"]])
def test_an_option_that_selects_other_input_is_refused(flag: str, value: list[str]) -> None:
    spelling = "--" + flag[2:].replace("-", "_")
    for line in (
        [*LINE, flag, *value],
        [*LINE[:2], flag, *value, *LINE[2:]],
        [flag, *value, *LINE],
        [f"{spelling}={value[0]}", *LINE],
        [flag],
    ):
        with pytest.raises(UsageError) as caught:
            parse_args(line)
        assert caught.value.message == f"{flag} is not supported"
        assert caught.value.hint == REFUSED_OPTIONS[flag]


@pytest.mark.parametrize(
    ("words", "part", "name", "expected", "notes"),
    [
        ("--sloppy", "processing", "fast", True, 1),
        ("--skull-strip-t1w skip", "processing", "skull_stripped", "yes", 1),
        ("--skull_strip_mode force", "processing", "skull_stripped", "no", 1),
        ("--skull-strip-anat auto", "processing", "skull_stripped", "auto", 1),
        ("--ignore t2w", "query", "ignore", ("t2w",), 0),
        ("--ignore T1w t2w", "query", "ignore", ("t1w", "t2w"), 0),
        ("--ignore fieldmaps t2w sbref", "query", "ignore", ("t2w",), 2),
        ("--ignore slicetiming", "query", "ignore", (), 1),
        ("--device mps", "performance", "device", "mps", 0),
        ("--output-spaces anat", "processing", "output_spaces", (OutputSpace("T1w"),), 1),
        ("-d /x/smriprep", "query", "derivatives", {"smriprep": Path("/x/smriprep")}, 0),
    ],
)
def test_options_of_other_apps_are_translated(
    words: str, part: str, name: str, expected: object, notes: int
) -> None:
    config = read(words)
    assert getattr(getattr(config, part), name) == expected
    assert len(config.notes) == notes


@pytest.mark.parametrize(
    ("words", "levels"),
    [
        ("/bids /out subject", ("participant",)),
        ("/bids /out session", ("participant",)),
        ("/bids /out dataset", ("group",)),
        ("/bids /out subject dataset", ("participant", "group")),
        ("/bids /out --level subject", ("participant",)),
        ("/bids /out --analysis-level dataset", ("group",)),
        ("/bids /out participant --level group", ("participant", "group")),
        ("/bids /out participant --level full", ("participant",)),
    ],
)
def test_level_names_of_specification_are_accepted(words: str, levels: tuple[str, ...]) -> None:
    config = parse_args(words.split())
    assert config.levels == levels
    others = {"subject", "session", "dataset", "full"} & set(words.split())
    assert len(config.notes) == len(others)


@pytest.mark.parametrize(
    ("words", "levels", "labels"),
    [
        ("--participant-label 01 group", ("group",), ("01",)),
        ("--participant-label 01 02 participant group", ("participant", "group"), ("01", "02")),
        ("participant --participant_label 01 group", ("participant", "group"), ("01",)),
        ("--participant-label 01 participant --fast", ("participant",), ("01",)),
        ("participant --participant-label sub-01 sub-group", ("participant",), ("01", "group")),
        ("participant --participant-label group", ("participant",), ("group",)),
    ],
)
def test_level_after_labels_is_read_as_level(
    words: str, levels: tuple[str, ...], labels: tuple[str, ...]
) -> None:
    config = parse_args(["/bids", "/out", *words.split()])
    assert (config.levels, config.query.participant_label) == (levels, labels)


@pytest.mark.parametrize(
    "words", ["--output-spaces FLAIR", "-d /x", "--session-label 1", "--ignore t1w"]
)
def test_level_after_multi_value_option_is_recognised(words: str) -> None:
    config = parse_args(["/bids", "/out", *words.split(), "participant"])
    assert config.levels == ("participant",)
    assert len(config.notes) == 1


def test_first_value_of_label_option_is_never_a_level() -> None:
    flags = ["--participant-label"]
    words = ["--participant-label", "group", "-v", "group"]
    assert split_off_levels(words, flags) == (words, [])


def test_threads_may_exceed_nprocs() -> None:
    performance = read("--nprocs 2 --omp-nthreads 8").performance
    assert (performance.nprocs, performance.omp_nthreads) == (2, 8)


def test_explain_covers_every_compatibility_option() -> None:
    rows = dict(explain())
    assert set(rows) == {*ALIASES, *TRANSLATED_OPTIONS, *IGNORED_OPTIONS, *REFUSED_OPTIONS}
    assert all(rows.values())
