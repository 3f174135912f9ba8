"""``msseg-consensus``: combine several raters' masks, and measure each rater's agreement."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from bids_msseg.cli.parser import Parser
from bids_msseg.errors import MssegError
from bids_msseg.evaluation.consensus import Request, fuse_dataset
from bids_msseg.evaluation.mask_values import add_option, read_option
from bids_msseg.process import refuse, supervise


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = Parser(
        prog="msseg-consensus",
        description="Fuse several raters' lesion masks by majority, STAPLE and LOP-STAPLE, and "
        "compare each rater, and an algorithm, with the consensus of the others.",
    )
    parser.add_argument("bids_dir", type=Path, help="BIDS dataset, or a derivative dataset")
    parser.add_argument("out_dir", type=Path, help="derivative dataset to write")
    parser.add_argument(
        "--derivatives", type=Path, nargs="+", default=(), metavar="DIR",
        help="datasets with the raters' masks; by default every dataset below BIDS/derivatives "
        "that bids_msseg has not written",
    )  # fmt: skip
    parser.add_argument(
        "--raters", nargs="+", metavar="LABEL",
        help="desc- labels of the raters; by default rater<label>, and every other desc- of a "
        "mask with label-L",
    )  # fmt: skip
    parser.add_argument(
        "--algorithm", type=Path, nargs="+", default=(), metavar="DERIVATIVES",
        help="datasets whose label-L masks without desc- are compared too, without a vote",
    )  # fmt: skip
    parser.add_argument("--space", default="FLAIR", help="value of space- (default: FLAIR)")
    parser.add_argument(
        "--margin", type=_margin, default=0, metavar="VOXELS",
        help="dilate the union of the raters' masks before STAPLE (default: 0)",
    )  # fmt: skip
    add_option(parser)
    parser.add_common_options()
    return parser


def _margin(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 10:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 10")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    try:
        options = build_parser().parse_args(argv)
        values = read_option(options.mask_values)
    except MssegError as error:
        return int(refuse(error, program="msseg-consensus"))
    request = Request(
        options.bids_dir,
        options.out_dir,
        tuple(options.derivatives),
        tuple(label.removeprefix("desc-") for label in options.raters) if options.raters else None,
        tuple(options.algorithm),
        options.space.removeprefix("space-"),
        options.margin,
        values,
    )
    return int(supervise(lambda: fuse_dataset(request), verbose=options.verbose))


if __name__ == "__main__":
    raise SystemExit(main())
