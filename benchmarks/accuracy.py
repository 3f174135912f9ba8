"""Accuracy of a trained cascade on held-out patients, per visit and per site.

usage: python benchmarks/accuracy.py TRAIN_OUT BIDS_DIR [--labels DIR] [--rows ROW,ROW...]
[--threads N] [--visits KEY ...] [--device cpu] [--page FILE.md]

``TRAIN_OUT`` is the output folder of ``msseg-train``. Rows: ``agreement``, ``normal``,
``refinement``, ``point`` and ``pretrained`` read predictions from disk and take a minute;
``contrasts`` and ``rescan`` segment every visit again, up to three times each; ``free`` segments
synthetic heads without lesions; ``time`` runs the released cascade on one brain. ``--page``
replaces the sections of these rows in a Markdown page, such as docs/validation/accuracy.md.

Means are over the visits of a participant, then over the participants of a site. If a site has
five patients or more, the mean has a 95 % bootstrap interval over patients (10,000 draws);
otherwise there is no interval.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import accuracy_rerun
import accuracy_stored
from accuracy_table import Section, merge, render

from bids_msseg.errors import MssegError
from bids_msseg.io.atomic import write_atomic

FROM_DISK: dict[str, Callable[[accuracy_stored.Bench], Section]] = {
    "agreement": accuracy_stored.agreement,
    "normal": accuracy_stored.normal,
    "refinement": accuracy_stored.refinement,
    "point": accuracy_stored.point,
    "pretrained": accuracy_rerun.pretrained,
}
RERUN: dict[str, Callable[[accuracy_stored.Bench], Section]] = {
    "contrasts": accuracy_rerun.contrasts,
    "rescan": accuracy_rerun.rescan,
    "free": accuracy_rerun.lesion_free,
}
ROWS = (*FROM_DISK, *RERUN, "time")


def main() -> int:
    """Print the tables that were asked for, each as soon as it is done."""
    options = _parse()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    try:
        for row, section in _sections(options):
            command = f"python benchmarks/accuracy.py TRAIN_OUT ms-cohort --rows {row}"
            text = render(section, command)
            print(text, flush=True)
            if options.page:
                page = options.page.read_text("utf-8") if options.page.is_file() else ""
                write_atomic(options.page, merge(page, text))
    except MssegError as error:
        print(error, file=sys.stderr)
        return int(error.code)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Print the accuracy on held-out patients.")
    parser.add_argument("train_out", type=Path, help="what msseg-train wrote; only read")
    parser.add_argument("bids_dir", type=Path, help="the dataset it was trained on")
    parser.add_argument("--labels", type=Path, help="default: BIDS_DIR/derivatives/manual")
    parser.add_argument(
        "--rows", type=_rows, default=tuple(FROM_DISK), help=f"some of {','.join(ROWS)}, or all"
    )
    parser.add_argument("--visits", nargs="+", metavar="KEY", help="only these, as sub-01_ses-1")
    parser.add_argument("--time-visit", default="sub-lj26", help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--page", type=Path, metavar="FILE.md", help="update the tables there")
    options = parser.parse_args()
    if options.page and (options.visits or options.labels):
        parser.error("--page takes the tables of all visits with their usual labels")
    return options


def _rows(text: str) -> tuple[str, ...]:
    chosen = ROWS if text == "all" else tuple(part.strip() for part in text.split(","))
    unknown = [row for row in chosen if row not in ROWS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no such row: {', '.join(unknown)}")
    return chosen


def _sections(options: argparse.Namespace) -> Iterator[tuple[str, Section]]:
    import torch

    torch.set_num_threads(options.threads)
    labels = options.labels or options.bids_dir / "derivatives" / "manual"
    bench = accuracy_stored.open_bench(
        options.train_out, options.bids_dir, labels, visits=options.visits, device=options.device
    )
    for row in options.rows:
        if row == "time":
            visit, threads = options.time_visit, options.threads
            yield row, accuracy_rerun.wall_time(bench, visit=visit, threads=threads)
        else:
            yield row, {**FROM_DISK, **RERUN}[row](bench)


if __name__ == "__main__":
    raise SystemExit(main())
