"""``msseg-evaluate``: agreement of automatic with manual masks, by visit and by site."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from bids_msseg.cli.parser import Parser
from bids_msseg.errors import MssegError, UsageError
from bids_msseg.evaluation.case import Rules
from bids_msseg.evaluation.evaluate import PROGRAM, Settings, evaluate
from bids_msseg.evaluation.figures import MIN_VOLUME
from bids_msseg.evaluation.files import Choice, Places
from bids_msseg.evaluation.mask_values import add_option, read_option
from bids_msseg.process import refuse, supervise
from bids_msseg.readers import named_paths
from bids_msseg.resources import available_cpus


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = Parser(
        prog=PROGRAM,
        description="Compare automatic with manual lesion masks, volume-wise, visit by visit and "
        "over sites, and write tables and a page.",
    )
    add = parser.add_argument
    add("auto", type=Path, help="derivative dataset with automatic masks, of any program")
    add("manual", type=Path, help="derivative dataset with the masks of a rater or a consensus")
    add("out", type=Path, help="folder for tables and page")
    for side in ("auto", "manual"):
        masks = parser.add_argument_group(f"which {side} masks")
        masks.add_argument(
            f"--{side}-desc", metavar="LABEL", help="desc- of the masks, such as rater1"
        )
        masks.add_argument(f"--{side}-label", metavar="LABEL", help="label-; default: L or lesion")
        masks.add_argument(
            f"--{side}-space",
            metavar="LABEL",
            default="FLAIR",
            help="space-; default: %(default)s",
        )
    add(
        "--compare-with", nargs="+", metavar="NAME=DIR", default=[],
        help="masks of other segmenters, selected like those of AUTO; NAME= is optional. Writes "
        "a table with the means of all, and the paired differences from AUTO",
    )  # fmt: skip
    add(
        "--bids", type=Path, metavar="DIR", help="raw dataset, for FLAIR and participants.tsv; "
        "default: the one that MANUAL or AUTO is a derivative of",
    )  # fmt: skip
    add("--site", metavar="NAME", help="site of all visits")
    add("--site-column", default="site", help="column of participants.tsv; default: %(default)s")
    add(
        "--regions", type=Path, metavar="DIR",
        help="msseg's outputs of the same visits, for the regions of lesions; default: AUTO",
    )  # fmt: skip
    add(
        "--fit-regions", action="store_true",
        help="where regions are not known, fit the template to the FLAIR (seconds per visit)",
    )  # fmt: skip
    add(
        "--resample", action="store_true",
        help="resample automatic masks on another grid to that of the manual mask: linear "
        "interpolation, threshold 0.5; otherwise they are rejected",
    )  # fmt: skip
    add(
        "--min-lesion-volume", type=float, default=MIN_VOLUME, metavar="MM3",
        help="smaller lesions are not counted; default: %(default)g",
    )  # fmt: skip
    add_option(parser)
    add("--no-page", action="store_true", help="write no evaluation.html")
    add("--nprocs", type=int, metavar="N", help="visits at a time; default: as many as CPUs")
    parser.add_common_options()
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    try:
        options = build_parser().parse_args(argv)
        settings = _settings(options)
    except MssegError as error:
        return int(refuse(error, program=PROGRAM))
    return int(supervise(lambda: evaluate(settings), verbose=options.verbose))


def _settings(options: argparse.Namespace) -> Settings:
    if options.min_lesion_volume < 0 or (options.nprocs is not None and options.nprocs < 1):
        raise UsageError(
            "--min-lesion-volume must be 0 or more, and --nprocs 1 or more",
            hint=f"see {PROGRAM} --help",
        )
    segmenters = _segmenters(options)
    for folder in (options.auto, options.manual, *segmenters.values()):
        if folder.resolve() == options.out.resolve():
            raise UsageError(
                f"the output folder {folder} is also an input", hint="use another output folder"
            )
    return Settings(
        Choice(options.auto, options.auto_desc, options.auto_label, options.auto_space),
        Choice(options.manual, options.manual_desc, options.manual_label, options.manual_space),
        options.out,
        Places(options.bids, options.regions, options.site, options.site_column),
        Rules(
            options.min_lesion_volume,
            options.resample,
            options.fit_regions,
            read_option(options.mask_values),
        ),
        options.nprocs or available_cpus(),
        not options.no_page,
        segmenters,
    )


def _segmenters(options: argparse.Namespace) -> dict[str, Path]:
    """Return the compared segmentations by name, AUTO first; empty if there is only one."""
    if not options.compare_with:
        return {}
    try:
        return named_paths([str(options.auto.absolute()), *options.compare_with])
    except ValueError as error:
        raise UsageError(
            f"invalid value for --compare-with: {' '.join(options.compare_with)}",
            hint=f"use {error}",
        ) from error


if __name__ == "__main__":
    raise SystemExit(main())
