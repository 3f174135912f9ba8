"""``msseg-file``: segment one visit from its image files, without BIDS."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bids_msseg import readers
from bids_msseg.cli.parser import Parser
from bids_msseg.errors import ExitCode, MssegError, NoInputError, UsageError, convert_os_error
from bids_msseg.options import read_options
from bids_msseg.process import refuse, supervise

LOGGER = logging.getLogger("bids_msseg")
PROGRAM = "msseg-file"
THREADS = "omp_nthreads"
"""The option of ``msseg`` whose values ``--threads`` takes."""
EXCLUSIONS = "exclude_masks"


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = Parser(
        prog=PROGRAM,
        description="Segment the lesions of one visit from NIfTI files, raw or skull-stripped: "
        "mask, probability and anatomy on the grid of the FLAIR, one row per lesion or rejected "
        "candidate, and a summary.",
        epilog="For research use only; not for diagnostic use. msseg does the same for a BIDS "
        "dataset, with report pages and comparisons of visits.",
    )
    parser.add_argument("flair", metavar="FLAIR", help=".nii or .nii.gz; never written to")
    parser.add_argument("--t1w", metavar="FILE", help="T1w of the same visit, aligned or not")
    parser.add_argument("--t2w", metavar="FILE", help="T2w of the same visit, aligned or not")
    parser.add_argument("-o", "--output", metavar="DIR", required=True, help="output folder")
    parser.add_argument("--model", metavar="PATH|NAME", help="weights [the bundled ones]")
    parser.add_argument(
        "--threshold", metavar="P", help="lesion at or above this probability, 0-1 [the model's]"
    )
    parser.add_argument(
        "--min-lesion-volume", metavar="V", help="smallest lesion in mm³ [that of msseg]"
    )
    parser.add_argument(
        "--lesion-mask",
        metavar="FILE",
        help="lesions drawn or found elsewhere, on the grid of the FLAIR: they replace those of "
        "the networks",
    )
    parser.add_argument(
        "--exclude-mask",
        metavar="FILE",
        action="append",
        default=[],
        dest=EXCLUSIONS,
        help="region on the grid of the FLAIR in which nothing is a lesion; repeat the option for "
        "more masks",
    )
    parser.add_argument(
        "--atlas",
        metavar="ATLAS",
        action="append",
        help="lesion load by region: sides, FILE:SPACE or a TemplateFlow name; repeat the option "
        "for more atlases",
    )
    parser.add_argument(
        "--fill-lesions", action="store_true", help="also write FLAIR and T1w with filled lesions"
    )
    parser.add_argument(
        "--device", metavar="DEVICE", help="auto, cpu, cuda[:N] or mps, for the networks [auto]"
    )
    parser.add_argument(
        "--threads", metavar="N", dest=THREADS, help="threads of one step [CPUs, at most 8]"
    )
    parser.add_common_options()
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    try:
        files, output, options, verbose = _parse(argv)
    except MssegError as error:
        return int(refuse(error, program=PROGRAM))
    return int(supervise(lambda: _run(files, output, options), verbose=verbose))


def _parse(
    argv: Sequence[str] | None,
) -> tuple[dict[str, Any], Path, dict[str, Any], int]:
    arguments = vars(build_parser().parse_args(argv))
    verbose = int(arguments.pop("verbose"))
    output = _path("--output", arguments.pop("output"))
    images = {"FLAIR": "flair", "--t1w": "t1w", "--t2w": "t2w", "--lesion-mask": "lesion_mask"}
    given = {name: (flag, arguments.pop(name)) for flag, name in images.items()}
    exclusions = [_path("--exclude-mask", text) for text in arguments.pop(EXCLUSIONS)]
    files: dict[str, Any] = {
        name: _path(flag, text) for name, (flag, text) in given.items() if text is not None
    }
    if exclusions:
        files[EXCLUSIONS] = exclusions
    options = read_options(
        {name: value for name, value in arguments.items() if value is not None},
        spelling=lambda name: "--threads" if name == THREADS else f"--{name.replace('_', '-')}",
    )
    return files, output, options, verbose


def _path(flag: str, text: str) -> Path:
    try:
        return readers.path(text)
    except ValueError as error:
        raise UsageError(f"invalid value for {flag}: {text!r}", hint=f"use {error}") from error


def _run(files: Mapping[str, Any], output: Path, options: Mapping[str, Any]) -> ExitCode:
    """Check that the input files exist before slow imports, then segment."""
    exclusions = files.get(EXCLUSIONS, [])
    for path in (*(path for name, path in files.items() if name != EXCLUSIONS), *exclusions):
        if not _exists(path):
            raise NoInputError(f"no file found at {path}", hint="correct the path")
    with _folder(output):
        from bids_msseg.api import segment

        LOGGER.info("segmenting %s", files["flair"])
        keywords = {
            "threads" if name == THREADS else name: value for name, value in options.items()
        }
        keywords["atlas"] = [str(atlas) for atlas in options.get("atlas", ())]
        result = segment(**files, **keywords)
    for note in result.notes:
        LOGGER.info("%s", note)
    for flag in result.flags:
        LOGGER.warning("%s", flag)
    result.save(output)
    LOGGER.info("%d lesions, %.2f mL: %s", result.lesion_count, result.lesion_load_ml, output)
    return ExitCode.SUCCESS


@contextmanager
def _folder(path: Path) -> Iterator[None]:
    """Create the output folder; after an error, remove it if it is new and empty."""
    is_new = not path.exists()
    with convert_os_error(f"cannot create the folder {path}", hint="choose a writable folder"):
        path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if is_new:
            with suppress(OSError):
                path.rmdir()
        raise


def _exists(path: Path) -> bool:
    """Return whether a file exists and this user may access it."""
    try:
        return path.exists()
    except OSError:
        return False


if __name__ == "__main__":
    raise SystemExit(main())
