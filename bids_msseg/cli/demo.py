"""``msseg-demo``: write a small synthetic BIDS dataset, and score lesion masks of it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bids_msseg.cli.parser import Parser
from bids_msseg.demo.dataset import (
    LARGEST_COHORT,
    RESOLUTIONS,
    DemoOptions,
    write_demo,
)
from bids_msseg.demo.files import PROGRAM
from bids_msseg.demo.score import score
from bids_msseg.errors import ExitCode, MssegError, UsageError
from bids_msseg.process import refuse, supervise


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command that writes a dataset."""
    parser = Parser(
        prog=PROGRAM,
        description="Write a small synthetic BIDS dataset with true lesion masks under "
        "derivatives/truth: one participant with two visits, one without T2w.",
        epilog=f"{PROGRAM} score OUT DERIVATIVE prints how well masks agree with the truth.",
    )
    parser.add_argument("out", type=Path, help="folder to write; an earlier demo is replaced")
    parser.add_argument("--seed", type=int, default=7, help="any number (default: %(default)s)")
    parser.add_argument(
        "--grid",
        choices=list(RESOLUTIONS),
        default="fine",
        help="fine: FLAIR 1x1x3 mm; coarse: 2x2x4 mm, for tests (default: %(default)s)",
    )
    parser.add_argument(
        "--participants", type=int, default=3, help="how many (default: %(default)s)"
    )
    parser.add_argument(
        "--heads",
        choices=("mixed", "all", "none"),
        default="mixed",
        help="add a synthetic head around the brain; mixed: the second participant has none "
        "(default: %(default)s)",
    )
    parser.add_common_options()
    return parser


def build_score_parser() -> argparse.ArgumentParser:
    """Build the parser of the command that scores masks."""
    parser = Parser(
        prog=f"{PROGRAM} score",
        description="Compare lesion masks with the truth of a dataset that msseg-demo wrote.",
    )
    parser.add_argument("demo", type=Path, help="the dataset")
    parser.add_argument(
        "derivative", type=Path, help="folder with sub-*_space-FLAIR_label-L_mask.nii.gz"
    )
    parser.add_common_options()
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code; ``score`` as first argument scores masks."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments[:1] == ["score"]:
            options = build_score_parser().parse_args(arguments[1:])
            return int(supervise(lambda: _score(options), verbose=options.verbose))
        options = build_parser().parse_args(arguments)
        demo_options = _demo_options(options)
    except MssegError as error:
        return int(refuse(error, program=PROGRAM))
    return int(supervise(lambda: _write(demo_options), verbose=options.verbose))


def _demo_options(options: argparse.Namespace) -> DemoOptions:
    if not 1 <= options.participants <= LARGEST_COHORT:
        raise UsageError(
            f"invalid value for --participants: {options.participants}",
            hint=f"use a number from 1 to {LARGEST_COHORT}",
        )
    if options.seed < 0:
        raise UsageError(f"--seed {options.seed} is negative", hint="use 0 or more")
    return DemoOptions(
        options.out, options.seed, options.grid, options.participants, options.heads
    )


def _score(options: argparse.Namespace) -> ExitCode:
    table, complete = score(options.demo, options.derivative)
    print(table)
    return ExitCode.SUCCESS if complete else ExitCode.NO_INPUT


def _write(options: DemoOptions) -> ExitCode:
    write_demo(options)
    return ExitCode.SUCCESS


if __name__ == "__main__":
    raise SystemExit(main())
