"""The option ``--mask-values`` of programs that read manual masks."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from bids_msseg.errors import UsageError
from bids_msseg.lesions.mask_values import ANY, MaskValues


def add_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--mask-values`` to a program that reads manual masks."""
    parser.add_argument(
        "--mask-values",
        nargs="+",
        default=[ANY],
        metavar="any|N",
        help="values of manual masks that are lesion, such as 1 5 (default: any above zero)",
    )


def read_option(values: Sequence[str]) -> MaskValues:
    """Parse the values of ``--mask-values``; ``any`` becomes None (UsageError if invalid)."""
    if list(values) == [ANY]:
        return None
    if not all(value.isdecimal() and int(value) for value in values):
        raise UsageError(
            f"invalid --mask-values: {' '.join(values)}",
            hint="use any, or whole numbers above zero",
        )
    return tuple(sorted({int(value) for value in values}))
