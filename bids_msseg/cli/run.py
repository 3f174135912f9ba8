"""Command line of the BIDS App, which is parsed to a :class:`~bids_msseg.config.RunConfig`.

Slow imports follow the check of the command line, so that help and errors appear at once.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Final, NoReturn

from bids_msseg import __version__, compatibility, option_files, process, readers
from bids_msseg.cli.options import (
    add_performance_options,
    add_processing_options,
    add_query_options,
    add_switch,
)
from bids_msseg.config import RunConfig
from bids_msseg.errors import ExitCode, MssegError, NoInputError, UsageError
from bids_msseg.options import LEVELS
from bids_msseg.streams import tolerant_streams

LEVEL_CHOICE: Final = f"{{{','.join(LEVELS)}}}"
USAGE: Final = f"msseg BIDS_DIR OUTPUT_DIR {LEVEL_CHOICE} [options]"
MAX_HELP_WIDTH: Final = 100


def main(argv: Sequence[str] | None = None) -> int:
    """Run the app and return its exit code."""
    if isinstance(sys.stdout, TextIOWrapper):
        # help has a ³, which not every terminal can show
        sys.stdout.reconfigure(errors="replace")
    with tolerant_streams():
        return int(_main(sys.argv[1:] if argv is None else argv))


def _main(arguments: Sequence[str]) -> ExitCode:
    try:
        config = parse_args(arguments)
    except SystemExit:
        # argparse has answered --help, --version or --bids-exec-spec
        return ExitCode.SUCCESS
    except MssegError as error:
        return process.refuse(error, program="msseg")
    return process.supervise(
        lambda: _run(config),
        verbose=config.execution.verbose,
        # a dry run leaves nothing in OUT
        crash_folder=None if config.execution.dry_run else config.output_dir / "logs",
    )


def _run(config: RunConfig) -> int:
    check_inputs(config)
    from bids_msseg.app import run

    return run(config)


def check_inputs(config: RunConfig) -> None:
    """Check that named files and folders exist (UsageError, NoInputError) before slow imports."""
    plugin = config.performance.use_plugin
    if plugin is not None and not plugin.is_file():
        raise UsageError(f"no plugin file found at {plugin}", hint="correct --use-plugin")
    if "participant" not in config.levels:
        return
    if not _is_folder(config.bids_dir):
        raise NoInputError(
            f"no dataset folder found at {config.bids_dir}",
            hint="correct BIDS_DIR, or mount it into the container",
        )
    query = config.query
    for option, sources in (
        ("--derivatives", query.derivatives),
        ("--lesion-masks", query.lesion_masks),
        ("--exclude-masks", query.exclude_masks),
    ):
        for name, source in sources.items():
            folder = option_files.pattern_root(source)
            if not _is_folder(folder):
                raise NoInputError(
                    f"no folder found at {folder}", hint=f"correct {option} {name}=PATH"
                )


def _is_folder(path: Path) -> bool:
    """Return whether a folder exists and this user may access it."""
    try:
        return path.is_dir()
    except OSError:
        return False


def parse_args(arguments: Sequence[str]) -> RunConfig:
    """Read a command line and the configuration file that it may name.

    Raises UsageError or UnknownLevelError for mistakes, SystemExit after options such as --help.
    """
    options, notes = _read_arguments(arguments)
    file = options.pop("config_file", None)
    if file is None:
        return replace(RunConfig.from_options(options), notes=notes)
    text = option_files.read_file(Path(file), what="the configuration file")
    config = RunConfig.from_toml(text, overrides=options, source=file)
    return replace(config, notes=notes)


def _read_arguments(arguments: Sequence[str]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Parse arguments into options by name, with notes on those that were reinterpreted."""
    parser = build_parser()
    canonical = [compatibility.canonical(argument) for argument in arguments]
    compatibility.check_supported(canonical)
    words = compatibility.drop_words(canonical)
    remaining, late_levels = compatibility.split_off_levels(words, _list_flags(parser))
    namespace, extra = parser.parse_known_args(remaining)
    if extra:
        _refuse_extra(parser, extra[0])
    parsed = vars(namespace)
    options, notes = compatibility.translate(
        {**parsed, "levels": [*parsed.get("levels", []), *late_levels]}
    )
    if not options["levels"]:
        raise _missing_arguments(LEVEL_CHOICE)
    level_notes = (
        f"{level} after an option is read as an analysis level; write labels with their prefix"
        for level in late_levels
    )
    return options, (*level_notes, *notes)


def _list_flags(parser: argparse.ArgumentParser) -> list[str]:
    list_actions = (action for action in parser._actions if action.nargs == "+")
    return [flag for action in list_actions for flag in action.option_strings]


def _missing_arguments(names: str) -> UsageError:
    return UsageError(
        f"missing arguments: {names}", hint=f"use {USAGE}; put options with several values last"
    )


def _refuse_extra(parser: argparse.ArgumentParser, argument: str) -> NoReturn:
    if argument.startswith("-"):
        flags = [flag for action in visible_options(parser) for flag in action.option_strings]
        name = argument.partition("=")[0]
        raise UsageError(
            f"unknown option {name}",
            hint=f"see msseg --help for all options{readers.nearest(name, flags)}",
        )
    raise UsageError(f"unexpected argument {argument}", hint=f"use {USAGE}")


class _Parser(argparse.ArgumentParser):
    """Parser whose errors end with the exit codes of this app, not those of argparse."""

    def error(self, message: str) -> NoReturn:
        if message.startswith("the following arguments are required"):
            # levels come last: where anything is missing, they are too
            raise _missing_arguments(f"{message.partition(': ')[2]}, {LEVEL_CHOICE}")
        raise UsageError(message, hint="see msseg --help")


class _HelpFormatter(argparse.HelpFormatter):
    """Formatter that shows one metavar per option and limits the length of lines."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=31)
        self._width = min(self._width, MAX_HELP_WIDTH)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        flags = ", ".join(action.option_strings)
        if action.nargs == 0:
            return flags
        return f"{flags} {action.metavar or ''}".strip()


class _PrintExecSpec(argparse.Action):
    """Print the descriptor and stop, as ``--version`` does."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,  # noqa: ARG002
        values: Any,  # noqa: ARG002
        option_string: str | None = None,  # noqa: ARG002
    ) -> None:
        """See :class:`argparse.Action`."""
        print(bids_exec_spec())
        parser.exit()


def bids_exec_spec() -> str:
    """Return the Boutiques descriptor (schema 0.5) of this version and container as JSON."""
    file = resources.files("bids_msseg").joinpath("data/boutiques.json")
    descriptor = json.loads(file.read_text(encoding="utf-8"))
    descriptor["tool-version"] = __version__
    released = f"{descriptor['container-image']['image']}:{__version__}"
    image = os.environ.get("BIDS_MSSEG_IMAGE") or released
    descriptor["container-image"] = {"type": "docker", "image": image}
    return json.dumps(descriptor, indent=2, ensure_ascii=False)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser; options that are not given are absent from its namespace."""
    codes = ", ".join(f"{code.value} {code.name.lower().replace('_', ' ')}" for code in ExitCode)
    parser = _Parser(
        prog="msseg",
        usage=USAGE,
        description="Segment multiple-sclerosis lesions in a BIDS dataset (participant), and "
        "tabulate the lesion load of the cohort (group).",
        epilog="Options may use underscores for dashes. "
        "--no-SWITCH undoes what a configuration file set. "
        "Common options of other apps work, too. "
        f"Exit codes: {codes}.",
        formatter_class=_HelpFormatter,
        add_help=False,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    positionals = parser.add_argument_group("dataset and levels")
    positionals.add_argument("bids_dir", metavar="BIDS_DIR", help="the dataset; never written to")
    positionals.add_argument("output_dir", metavar="OUTPUT_DIR", help="where derivatives go")
    levels = positionals.add_argument(
        "levels", metavar=LEVEL_CHOICE, nargs="+", help="one level, or both"
    )
    # --level can name them too
    levels.required = False
    add_query_options(parser)
    add_processing_options(parser)
    add_performance_options(parser)
    _add_other_options(parser)
    compatibility.add_hidden_options(parser)
    return parser


def visible_options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """List the options that the help shows, without positionals."""
    return [
        action
        for action in parser._actions  # the only way to ask argparse for its options
        if action.option_strings and action.help != argparse.SUPPRESS
    ]


def _add_other_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("other")
    group.add_argument(
        "-w", "--work-dir", metavar="DIR", help="intermediate files [OUTPUT_DIR/.work]"
    )
    add_switch(group, "clean-workdir", "remove the work folders of visits processed now")
    add_switch(group, "clean-outputs", "remove results of unused images and removed visits")
    group.add_argument(
        "--config-file", metavar="FILE", help="TOML options; the command line overrides them"
    )
    add_switch(group, "dry-run", "list images and skipped visits; segment nothing")
    add_switch(group, "reports-only", "write the reports again from existing results")
    add_switch(group, "boilerplate-only", "write the methods text only")
    group.add_argument("--qc", metavar="DIR", help="QC ratings saved in the pages, for group")
    add_switch(group, "threshold-sweep", "group: also loads at thresholds .1 to .9")
    add_switch(group, "stop-on-first-crash", "stop when one visit fails")
    add_switch(group, "resource-monitor", "record CPU and memory of every step")
    group.add_argument("--notrack", action="store_true", help="no effect: nothing is ever tracked")
    group.add_argument("-v", "--verbose", action="count", help="log more; -vv everything")
    group.add_argument(
        "--bids-exec-spec", action=_PrintExecSpec, nargs=0, help="print the Boutiques descriptor"
    )
    group.add_argument(
        "--version",
        action="version",
        version=f"bids_msseg {__version__}",
        help="print the version",
    )
    group.add_argument("-h", "--help", action="help", help="print this text")
