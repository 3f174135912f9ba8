"""Page about command lines, generated from their parsers."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping

from site_text import cell, table

from bids_msseg.cli import check, consensus, demo, evaluate, segment_file, train
from bids_msseg.cli.run import build_parser
from bids_msseg.compatibility import explain
from bids_msseg.config import RunConfig
from bids_msseg.errors import ExitCode

PROGRAMS: Mapping[str, Callable[[], argparse.ArgumentParser]] = {
    "msseg": build_parser,
    "msseg-file": segment_file.build_parser,
    "msseg-train": train.build_parser,
    "msseg-evaluate": evaluate.build_parser,
    "msseg-consensus": consensus.build_parser,
    "msseg-check": check.build_parser,
    "msseg-demo": demo.build_parser,
    "msseg-demo score": demo.build_score_parser,
}
_USAGE_WIDTH = 92
_UNDOCUMENTED = {"verbose": "log more; -vv everything"}
_MEANINGS: Mapping[ExitCode, str] = {
    ExitCode.SUCCESS: "Every selected visit is finished, also those that are flagged.",
    ExitCode.FAILURE: "An unexpected error, or visits that failed with different codes.",
    ExitCode.INVALID_DATASET: "The input folder is not a BIDS dataset.",
    ExitCode.UNKNOWN_LEVEL: "The analysis level does not exist.",
    ExitCode.NOTHING_SELECTED: "Labels or filters select no visit.",
    ExitCode.USAGE: "The command line or the configuration file has a mistake.",
    ExitCode.DATA_ERROR: "The content of a file cannot be used.",
    ExitCode.NO_INPUT: "A file that is needed is missing, such as the dataset or every FLAIR.",
    ExitCode.CANNOT_CREATE: "A file or folder cannot be written.",
    ExitCode.IO_ERROR: "Reading or writing stopped, for example because the disk is full.",
    ExitCode.TEMPORARY: "A later run can succeed: a step was killed, most likely for lack of "
    "memory, a template could not be fetched, or another run was processing a visit.",
    ExitCode.INTERRUPTED: "SIGINT stopped the run; the same command resumes it.",
    ExitCode.TERMINATED: "SIGTERM stopped the run; the same command resumes it.",
}
_SEVERAL_VISITS = """A run of `msseg` goes on after a visit has failed, unless
`--stop-on-first-crash` is given:

| visits | exit code |
|---|---|
| one of many fails | the code of this visit, such as `65` |
| several fail with the same code | this code |
| several fail with different codes | `1` |
| another run is processing a visit, and none fails | `75` |
| a visit is skipped, such as one without a FLAIR, and others are finished | `0` |
| no selected visit can be processed | `66`, or `18` if a filter leaves no FLAIR |
| visits are flagged | `0` |
| all visits are finished, and comparing two of them ends with an error | the code of the error |

`group_lesions.tsv` has the status and the reason of each visit.
"""
_INTRO = """# Command lines

This page is generated from the parsers of this version and agrees with `--help`. Every program has
`--help` and `--version`.
"""


def usage_page() -> str:
    """Write the page.

    Returns
    -------
    str
        Markdown: a section for each program, options of other apps, the configuration file, the
        exit codes.
    """
    programs = (program_section(name, build()) for name, build in PROGRAMS.items())
    return "\n".join((_INTRO, *programs, _other_apps(), _configuration(), _exit_codes()))


def program_section(name: str, parser: argparse.ArgumentParser) -> str:
    """Write the section of one program.

    Parameters
    ----------
    name : str
        Its heading.
    parser : argparse.ArgumentParser

    Returns
    -------
    str
        Markdown.
    """
    parts = [f"## {name}\n", f"{parser.description}\n", f"```\n{_usage(parser)}\n```\n"]
    for group in parser._action_groups:  # argparse has no public way to ask for them
        rows = [_row(parser, action) for action in _shown(group)]
        if rows:
            parts += [f"**{_title(group)}**\n", table(("option", "meaning"), rows)]
    if parser.epilog:
        parts.append(f"{cell(parser.epilog)}\n")
    return "\n".join(parts)


def _usage(parser: argparse.ArgumentParser) -> str:
    """Format the usage for this page, independent of the width of the terminal."""
    if parser.usage:
        return parser.usage
    formatter = argparse.HelpFormatter(parser.prog, width=_USAGE_WIDTH)
    formatter.add_usage(None, parser._actions, parser._mutually_exclusive_groups, prefix="")
    return formatter.format_help().strip()


def _shown(group: argparse._ArgumentGroup) -> Iterator[argparse.Action]:
    return (action for action in group._group_actions if action.help != argparse.SUPPRESS)


def _title(group: argparse._ArgumentGroup) -> str:
    titles = {"positional arguments": "arguments", "options": "options"}
    return titles.get(group.title or "", group.title or "options").capitalize()


def _row(parser: argparse.ArgumentParser, action: argparse.Action) -> tuple[str, str]:
    formatter = argparse.HelpFormatter(parser.prog)
    text = formatter._expand_help(action) if action.help else _UNDOCUMENTED.get(action.dest, "")
    return f"`{_spelling(action)}`", cell(text)


def _spelling(action: argparse.Action) -> str:
    values = action.metavar or (
        "{" + ",".join(map(str, action.choices)) + "}" if action.choices else None
    )
    if not action.option_strings:
        return str(values or action.dest)
    flags = ", ".join(action.option_strings)
    if action.nargs == 0:
        return flags
    return f"{flags} {values or action.dest.upper()}"


def _other_apps() -> str:
    rows = [(f"`{flag}`", cell(text)) for flag, text in explain()]
    intro = (
        "`msseg` also knows these options. The log reports those with another effect here. "
        "The levels `subject` and `session` are run as `participant`, `dataset` as `group`. The "
        "space `anat` is the grid of the T1w.\n"
    )
    return "\n".join(("## Options of other apps\n", intro, table(("option", "here"), rows)))


def _configuration() -> str:
    options = {"bids_dir": "/bids", "output_dir": "/out", "levels": ["participant", "group"]}
    text = RunConfig.from_options(options).to_toml()
    return f"""## The configuration file

`msseg --config-file FILE` reads options from TOML. The command line overrides the
file. All options that have a default:

```toml
{text.strip()}
```
"""


def _exit_codes() -> str:
    rows = [
        (f"`{code.value}`", code.name.lower().replace("_", " "), _MEANINGS[code])
        for code in ExitCode
    ]
    return "\n".join(
        (
            "## Exit codes\n",
            "All programs use the codes of the BIDS execution specification:\n",
            table(("code", "name", "meaning"), rows),
            _SEVERAL_VISITS,
        )
    )
