"""Options of other BIDS Apps: aliases, translated, without effect (with a note), or refused."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bids_msseg import readers
from bids_msseg.errors import UsageError
from bids_msseg.options import LEVEL_SYNONYMS, LEVELS

ALIASES: Final[Mapping[str, str]] = {
    "--n-cpus": "--nprocs",
    "--n-procs": "--nprocs",
    "--nthreads": "--nprocs",
    "--mem": "--mem-mb",
    "--skip-bids-validator": "--skip-bids-validation",
    "--participant-labels": "--participant-label",
    "--subject-label": "--participant-label",
    "--exclude-subject-label": "--exclude-participant-label",
    "--session-id": "--session-label",
    "--nipype-plugin-file": "--use-plugin",
    "--skull-strip-t1w": "--skull-strip-mode",
    "--skull-strip-anat": "--skull-strip-mode",
    "--analysis-level": "--level",
}
"""Other names of options."""


@dataclass(frozen=True, slots=True)
class IgnoredOption:
    """An option that is accepted without effect: reason, metavar, and words that may follow."""

    reason: str
    value: str = ""
    words: tuple[str, ...] = ()


IGNORED_OPTIONS: Final[Mapping[str, IgnoredOption]] = {
    "--notrack": IgnoredOption("nothing is ever tracked"),
    "--track-carbon": IgnoredOption("nothing is ever tracked"),
    "--write-graph": IgnoredOption(
        "every visit has the same steps, which the documentation shows"
    ),
    "--md-only-boilerplate": IgnoredOption("the methods text is written as Markdown only"),
    "--low-mem": IgnoredOption("every step reads one visit only; --mem-gb limits the whole run"),
    "--output-layout": IgnoredOption("BIDS is the only layout", "bids"),
    "--longitudinal": IgnoredOption(
        "visits of a participant are always compared if their order is known and they align"
    ),
    "--subject-anatomical-reference": IgnoredOption("every visit keeps its own grid", "NAME"),
    "--aggregate-session-reports": IgnoredOption(
        "each page shows all visits of a participant", "N"
    ),
    "--skull-strip-fixed-seed": IgnoredOption("equal input always gives equal results"),
    "--debug": IgnoredOption(
        "-vv logs everything, and a failed step leaves a crash file",
        words=("all", "compcor", "fieldmap", "pdb"),
    ),
    "--force": IgnoredOption(
        "a finished visit is run again only if its input or options change",
        words=("bbr", "no-bbr", "syn-sdc", "fmap-jacobian"),
    ),
    "--track-sessions": IgnoredOption("every session is a visit of its own"),
    "--no-track-sessions": IgnoredOption("every session is a visit of its own"),
    "--run-uuid": IgnoredOption("reports are written from the records in OUT/logs", "UUID"),
    "--copy-derivatives": IgnoredOption("outputs name the files of --derivatives that they use"),
}
"""Options that are accepted and change nothing."""
REFUSED_OPTIONS: Final[Mapping[str, str]] = {
    "--run-id": 'select runs with --bids-filter-file, for example {"flair": {"run": 1}}',
    "--deriv-filter-file": "masks are found by their names: pass only the datasets that should be "
    "used to --derivatives",
}
"""Options that would select other input, and what to use instead."""

FMRIPREP_LEVELS: Final = ("minimal", "resampling", "full")
"""Levels of fMRIPrep, without effect."""
SKULL_STRIP_MODES: Final[Mapping[str, str]] = {"auto": "auto", "skip": "yes", "force": "no"}
"""Answers of ``--skull-strip-mode``, and those of ``--skull-stripped``."""
TRANSLATED_OPTIONS: Final[Mapping[str, str]] = {
    "--mem-mb": "memory of the whole run, in MB, or in GB with the suffix G",
    "--skull-strip-mode": "auto; skip as `--skull-stripped yes`, force as `--skull-stripped no`",
    "--level": "an analysis level; minimal, resampling and full have no effect",
    "--sloppy": "as `--fast`",
}
"""Options that are translated, and their meaning."""
UNREAD_INPUTS: Final = ("fieldmaps", "slicetiming", "sbref", "fmap-jacobian")
"""Values of fMRIPrep's ``--ignore`` for inputs that this app does not read."""


def canonical(argument: str) -> str:
    """Convert an option to the parser's spelling; values stay as they are."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    dashed = name.replace("_", "-")
    return ALIASES.get(dashed, dashed) + equals + value


def check_supported(arguments: Sequence[str]) -> None:
    """Raise UsageError for a refused option; ``arguments`` are spelled canonically."""
    # before argparse, for which the positional arguments that follow could be its values
    for argument in arguments:
        flag = argument.partition("=")[0]
        if flag in REFUSED_OPTIONS:
            raise UsageError(f"{flag} is not supported", hint=REFUSED_OPTIONS[flag])


def drop_words(arguments: Sequence[str]) -> list[str]:
    """Remove the words after options without effect; ``arguments`` are spelled canonically."""
    remaining: list[str] = []
    words: tuple[str, ...] = ()
    for argument in arguments:
        if argument in words:
            continue
        flag = argument.partition("=")[0]
        words = IGNORED_OPTIONS[flag].words if flag in IGNORED_OPTIONS else ()
        remaining.append(flag if words else argument)
    return remaining


def split_off_levels(
    arguments: Sequence[str], flags: Collection[str]
) -> tuple[list[str], list[str]]:
    """Separate levels from the values of ``flags``, of which the first is never a level."""
    level_names = (*LEVELS, *LEVEL_SYNONYMS)
    remaining: list[str] = []
    levels: list[str] = []
    first_value: int | None = None
    for argument in (*arguments, "--"):
        if argument.startswith("-"):
            end = len(remaining)
            while (
                first_value is not None
                and end > first_value + 1
                and remaining[end - 1] in level_names
            ):
                end -= 1
            levels += remaining[end:]
            del remaining[end:]
            first_value = len(remaining) + 1 if argument in flags else None
        remaining.append(argument)
    return remaining[:-1], levels


def add_hidden_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of other apps to the parser, hidden from its help."""
    for flag, option in IGNORED_OPTIONS.items():
        if flag == "--notrack":
            continue  # known so widely that help shows it
        keywords: dict[str, Any] = {} if option.value else {"action": "store_true"}
        parser.add_argument(flag, help=argparse.SUPPRESS, **keywords)
    for flag in ("--mem-mb", "--skull-strip-mode"):
        parser.add_argument(flag, help=argparse.SUPPRESS)
    parser.add_argument("--level", action="append", help=argparse.SUPPRESS)
    parser.add_argument("--sloppy", action="store_true", help=argparse.SUPPRESS)


def translate(parsed: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Translate options of other BIDS Apps, with notes; UsageError for an invalid value."""
    options = dict(parsed)
    notes = [*_levels(options), *_drop_ignored_options(options)]
    _memory(options)
    notes += [*_skull_stripping(options), *_ignored_inputs(options), *_spaces(options)]
    if options.pop("sloppy", False):
        options["fast"] = True
        notes.append("--sloppy is read as --fast")
    return options, tuple(notes)


def explain() -> tuple[tuple[str, str], ...]:
    """List the options of other apps as (flag, effect in this app), in Markdown."""
    return (
        *((flag, f"as `{target}`") for flag, target in ALIASES.items()),
        *TRANSLATED_OPTIONS.items(),
        *((flag, f"no effect: {option.reason}") for flag, option in IGNORED_OPTIONS.items()),
        *((flag, f"not supported: {hint}") for flag, hint in REFUSED_OPTIONS.items()),
    )


def _levels(options: dict[str, Any]) -> list[str]:
    """Merge the levels of ``--level`` with the positional ones; return notes."""
    level_values = options.pop("level", [])
    levels = [
        *options.get("levels", []),
        *(value for value in level_values if value not in FMRIPREP_LEVELS),
    ]
    options["levels"] = [LEVEL_SYNONYMS.get(level, level) for level in levels]
    return [
        *(
            f"--level {value} has no effect: all outputs are always written"
            for value in level_values
            if value in FMRIPREP_LEVELS
        ),
        *(
            f"the level {level} is run as {LEVEL_SYNONYMS[level]}"
            for level in levels
            if level in LEVEL_SYNONYMS
        ),
    ]


def _drop_ignored_options(options: dict[str, Any]) -> list[str]:
    flags = [flag for flag in IGNORED_OPTIONS if _dest(flag) in options]
    values = {flag: options.pop(_dest(flag)) for flag in flags}
    if values.get("--output-layout", "bids") != "bids":
        raise UsageError(
            f"unsupported value for --output-layout: {values['--output-layout']}",
            hint="use bids, the only layout",
        )
    return [f"{flag} has no effect: {IGNORED_OPTIONS[flag].reason}" for flag in flags]


def _memory(options: dict[str, Any]) -> None:
    text = options.pop("mem_mb", None)
    if text is None:
        return
    if "mem_gb" in options:
        raise UsageError("--mem-mb and --mem-gb set the same value", hint="use one of them")
    try:
        options["mem_gb"] = readers.memory(text)
    except ValueError as error:
        raise UsageError(f"invalid value for --mem-mb: {text}", hint=f"use {error}") from error


def _skull_stripping(options: dict[str, Any]) -> list[str]:
    mode = options.pop("skull_strip_mode", None)
    if mode is None:
        return []
    if "skull_stripped" in options:
        raise UsageError(
            "--skull-strip-mode and --skull-stripped set the same value", hint="use one of them"
        )
    if mode not in SKULL_STRIP_MODES:
        choices = readers.alternatives(SKULL_STRIP_MODES)
        raise UsageError(f"invalid value for --skull-strip-mode: {mode}", hint=f"use {choices}")
    options["skull_stripped"] = SKULL_STRIP_MODES[mode]
    return [f"--skull-strip-mode {mode} is read as --skull-stripped {SKULL_STRIP_MODES[mode]}"]


def _ignored_inputs(options: dict[str, Any]) -> list[str]:
    inputs = options.pop("ignore", [])
    contrasts = [name for name in inputs if name not in UNREAD_INPUTS]
    if contrasts:
        options["ignore"] = contrasts
    return [
        f"--ignore {name} has no effect: this app never reads such files"
        for name in inputs
        if name in UNREAD_INPUTS
    ]


def _spaces(options: Mapping[str, Any]) -> list[str]:
    named = [space for space in options.get("output_spaces", []) if space.lower() == "anat"]
    return [f"the space {space} is the grid of the T1w" for space in named[:1]]


def _dest(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")
