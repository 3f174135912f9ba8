"""Draw manual against automatic lesions of one visit, as README.md shows them.

usage: python benchmarks/draw_comparison.py AUTO MANUAL VISIT OUT.png [--bids DIR]

``AUTO`` and ``MANUAL`` are derivative folders as ``msseg-evaluate`` reads them, ``VISIT`` is
``sub-<label>[_ses-<label>]``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from comparison_figure import comparison_figure

from bids_msseg.errors import MssegError, NoInputError
from bids_msseg.evaluation.case import Rules, compare, picture
from bids_msseg.evaluation.files import Choice, Places, find_pairs
from bids_msseg.io.atomic import write_atomic


def main() -> int:
    """Find the visit, compare its masks and draw it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("auto", "manual"):
        parser.add_argument(name, type=Path)
    parser.add_argument("visit")
    parser.add_argument("out", type=Path)
    parser.add_argument("--bids", type=Path)
    options = parser.parse_args()
    try:
        draw(options)
    except MssegError as error:
        print(f"{error}\n{error.hint}", file=sys.stderr)
        return int(error.code)
    return 0


def draw(options: argparse.Namespace) -> None:
    """Write the figure and print the scores of the visit."""
    pairing = find_pairs(Choice(options.auto), Choice(options.manual), Places(options.bids))
    pair = next((candidate for candidate in pairing.pairs if candidate.key == options.visit), None)
    if pair is None:
        raise NoInputError(f"{options.visit} has not both masks", hint="name another visit")
    outcome = compare(pair, Rules())
    case = picture(pair, Rules(), outcome.subject, outcome.lesions)
    write_atomic(options.out, comparison_figure(case))
    for name in ("dice", "volume_manual_ml", "volume_auto_ml", "n_missed", "n_false"):
        print(f"{name}\t{outcome.subject[name]:.4g}")


if __name__ == "__main__":
    raise SystemExit(main())
