"""Options of other BIDS Apps and their meaning in this app.

Some are aliases of options of this app, some are translated into one of its options, and some have
no effect. All are accepted; a note reports each option that was reinterpreted. They come from
fMRIPrep, MRIQC, QSIPrep, snakebids and the BIDS execution specification.
"""

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
class Idle:
    """An option that is accepted without effect, and the reason for it.

    ``value`` is its metavar; it is empty if the option takes no value.
    """

    why: str
    value: str = ""


IDLE: Final[Mapping[str, Idle]] = {
    "--notrack": Idle("nothing is ever tracked"),
    "--track-carbon": Idle("nothing is ever tracked"),
    "--write-graph": Idle("every visit has the same steps, which the documentation shows"),
    "--md-only-boilerplate": Idle("the methods text is written as Markdown only"),
    "--low-mem": Idle("every step reads one visit only; --mem-gb limits the whole run"),
    "--output-layout": Idle("BIDS is the only layout", "bids"),
    "--longitudinal": Idle(
        "visits of a participant are always compared if their order is known and they align"
    ),
    "--subject-anatomical-reference": Idle("every visit keeps its own grid", "NAME"),
    "--aggregate-session-reports": Idle("each page shows all visits of a participant", "N"),
    "--skull-strip-fixed-seed": Idle("equal input always gives equal results"),
}
"""Options that are accepted and change nothing."""

EXTENTS: Final = ("minimal", "resampling", "full")
"""What fMRIPrep calls a level."""
SKULLS: Final[Mapping[str, str]] = {"auto": "auto", "skip": "yes", "force": "no"}
"""Answers of ``--skull-strip-mode``, and those of ``--skull-stripped``."""
MEANINGS: Final[Mapping[str, str]] = {
    "--mem-mb": "memory of the whole run, in MB, or in GB with the suffix G",
    "--skull-strip-mode": "auto; skip as `--skull-stripped yes`, force as `--skull-stripped no`",
    "--level": "an analysis level; minimal, resampling and full have no effect",
    "--sloppy": "as `--fast`",
}
"""Options that say in other words what one of ours says."""
NOT_READ: Final = ("fieldmaps", "slicetiming", "sbref", "fmap-jacobian")
"""What fMRIPrep can ignore and this app never reads."""


def canonical(word: str) -> str:
    """Convert an option to the parser's spelling; values stay as they are.

    Examples
    --------
    >>> canonical("--n_cpus=4"), canonical("--bids_filter_file"), canonical("a_b")
    ('--nprocs=4', '--bids-filter-file', 'a_b')
    """
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    dashed = name.replace("_", "-")
    return ALIASES.get(dashed, dashed) + equals + value


def split_off_levels(words: Sequence[str], flags: Collection[str]) -> tuple[list[str], list[str]]:
    """Separate analysis levels from the values of the option before them.

    ``words`` are spelled as by :func:`canonical`; ``flags`` are the options that take several
    values. Return the words without those levels, and the levels. The first value of an option is
    never taken for a level.

    Examples
    --------
    >>> split_off_levels(["/bids", "/out", "--ignore", "t1w", "group", "--fast"], ["--ignore"])
    (['/bids', '/out', '--ignore', 't1w', '--fast'], ['group'])
    """
    known = (*LEVELS, *LEVEL_SYNONYMS)
    kept: list[str] = []
    levels: list[str] = []
    first_value: int | None = None
    for word in (*words, "--"):
        if word.startswith("-"):
            end = len(kept)
            while first_value is not None and end > first_value + 1 and kept[end - 1] in known:
                end -= 1
            levels += kept[end:]
            del kept[end:]
            first_value = len(kept) + 1 if word in flags else None
        kept.append(word)
    return kept[:-1], levels


def add_hidden_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of other apps to the parser, hidden from its help."""
    for flag, idle in IDLE.items():
        if flag == "--notrack":
            continue  # known so widely that help shows it
        how: dict[str, Any] = {} if idle.value else {"action": "store_true"}
        parser.add_argument(flag, help=argparse.SUPPRESS, **how)
    for flag in ("--mem-mb", "--skull-strip-mode"):
        parser.add_argument(flag, help=argparse.SUPPRESS)
    parser.add_argument("--level", action="append", help=argparse.SUPPRESS)
    parser.add_argument("--sloppy", action="store_true", help=argparse.SUPPRESS)


def translate(given: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Translate options of other BIDS Apps into options of this app.

    Return the options of :class:`~bids_msseg.config.RunConfig`, where ``levels`` may be empty, and
    one sentence for each option that was reinterpreted. Raises UsageError for an invalid value or
    two options with the same meaning.

    Examples
    --------
    >>> translate({"levels": ["subject"], "mem_mb": "16G"})
    ({'levels': ['participant'], 'mem_gb': 16.0}, ('the level subject is run as participant',))
    """
    options = dict(given)
    notes = [*_levels(options), *_idle(options)]
    _memory(options)
    notes += [*_skulls(options), *_ignored(options), *_spaces(options)]
    if options.pop("sloppy", False):
        options["fast"] = True
        notes.append("--sloppy is read as --fast")
    return options, tuple(notes)


def explain() -> tuple[tuple[str, str], ...]:
    """List the options of other apps as (flag, effect in this app), in Markdown."""
    return (
        *((flag, f"as `{ours}`") for flag, ours in ALIASES.items()),
        *MEANINGS.items(),
        *((flag, f"no effect: {idle.why}") for flag, idle in IDLE.items()),
    )


def _levels(options: dict[str, Any]) -> list[str]:
    """Merge the levels of ``--level`` with the positional ones; return notes."""
    asked = options.pop("level", [])
    words = [*options.get("levels", []), *(one for one in asked if one not in EXTENTS)]
    options["levels"] = [LEVEL_SYNONYMS.get(word, word) for word in words]
    return [
        *(
            f"--level {one} has no effect: all outputs are always written"
            for one in asked
            if one in EXTENTS
        ),
        *(
            f"the level {word} is run as {LEVEL_SYNONYMS[word]}"
            for word in words
            if word in LEVEL_SYNONYMS
        ),
    ]


def _idle(options: dict[str, Any]) -> list[str]:
    given = [flag for flag in IDLE if _dest(flag) in options]
    values = {flag: options.pop(_dest(flag)) for flag in given}
    if values.get("--output-layout", "bids") != "bids":
        raise UsageError(
            f"unsupported value for --output-layout: {values['--output-layout']}",
            hint="use bids, the only layout",
        )
    return [f"{flag} has no effect: {IDLE[flag].why}" for flag in given]


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


def _skulls(options: dict[str, Any]) -> list[str]:
    mode = options.pop("skull_strip_mode", None)
    if mode is None:
        return []
    if "skull_stripped" in options:
        raise UsageError(
            "--skull-strip-mode and --skull-stripped set the same value", hint="use one of them"
        )
    if mode not in SKULLS:
        choices = readers.alternatives(SKULLS)
        raise UsageError(f"invalid value for --skull-strip-mode: {mode}", hint=f"use {choices}")
    options["skull_stripped"] = SKULLS[mode]
    return [f"--skull-strip-mode {mode} is read as --skull-stripped {SKULLS[mode]}"]


def _ignored(options: dict[str, Any]) -> list[str]:
    words = options.pop("ignore", [])
    wanted = [word for word in words if word not in NOT_READ]
    if wanted:
        options["ignore"] = wanted
    return [
        f"--ignore {word} has no effect: this app never reads such files"
        for word in words
        if word in NOT_READ
    ]


def _spaces(options: Mapping[str, Any]) -> list[str]:
    named = [space for space in options.get("output_spaces", []) if space.lower() == "anat"]
    return [f"the space {space} is the grid of the T1w" for space in named[:1]]


def _dest(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")
