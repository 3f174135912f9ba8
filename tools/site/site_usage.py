"""The page about command lines, made from the parsers themselves.

Public names: :func:`usage_page`, :data:`PROGRAMS`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping

from site_text import cell, table

from bids_msseg.cli import consensus, demo, evaluate, export, segment_file, train
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
    "msseg-export": export.build_parser,
    "msseg-demo": demo.build_parser,
    "msseg-demo score": demo.build_score_parser,
}
_USAGE_WIDTH = 92
_UNSAID = {"verbose": "log more; -vv everything"}
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
    """Lay the usage out for this page, however wide the terminal of the build is."""
    if parser.usage:
        return parser.usage
    formatter = argparse.HelpFormatter(parser.prog, width=_USAGE_WIDTH)
    formatter.add_usage(None, parser._actions, parser._mutually_exclusive_groups, prefix="")
    return formatter.format_help().strip()


def _shown(group: argparse._ArgumentGroup) -> Iterator[argparse.Action]:
    return (one for one in group._group_actions if one.help != argparse.SUPPRESS)


def _title(group: argparse._ArgumentGroup) -> str:
    known = {"positional arguments": "arguments", "options": "options"}
    return known.get(group.title or "", group.title or "options").capitalize()


def _row(parser: argparse.ArgumentParser, action: argparse.Action) -> tuple[str, str]:
    formatter = argparse.HelpFormatter(parser.prog)
    text = formatter._expand_help(action) if action.help else _UNSAID.get(action.dest, "")
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
        "`msseg` also accepts these options. The log reports those with another effect here. "
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
    rows = [(f"`{code.value}`", code.name.lower().replace("_", " ")) for code in ExitCode]
    return "\n".join(
        (
            "## Exit codes\n",
            "All programs use the codes of the BIDS execution specification:\n",
            table(("code", "meaning"), rows),
        )
    )
