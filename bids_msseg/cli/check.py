"""``msseg-check``: measure how reliable lesion masks are on the user's own, unlabelled scans."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from bids_msseg import readers
from bids_msseg.cli.parser import Parser
from bids_msseg.cli.run import check_inputs
from bids_msseg.config import RunConfig
from bids_msseg.errors import ExitCode, MssegError, UsageError
from bids_msseg.options import as_flag
from bids_msseg.process import refuse, supervise

PROGRAM: Final = "msseg-check"
DRAWS: Final = 3
MAX_VISITS: Final = 10
MAX_DRAWS: Final = 99
MAX_SEED: Final = 2**32 - 1


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = Parser(
        prog=PROGRAM,
        description="Measure how reliable lesion masks are on your own scans, without manual "
        "masks: lesions of known size, place and contrast are painted into white matter, and a "
        "pseudo-rescan of each scan is computed (moved, resampled, with noise). Writes check.tsv, "
        "check_visits.tsv, check.json and check.html into OUTPUT_DIR.",
        epilog="Painted lesions are not real lesions. At the start, the log says how many "
        "visits are checked, and how long that takes if OUTPUT_DIR has visits of msseg. The "
        "same command resumes a check that was stopped. For research use only; not for "
        "diagnostic use.",
    )
    add = parser.add_argument
    add("bids_dir", metavar="BIDS_DIR", help="the dataset; never written to")
    add("output_dir", metavar="OUTPUT_DIR", help="new, or that of msseg, to use its brain masks")
    add(
        "--draws", metavar="N", default=DRAWS,
        help="sets of painted lesions, and pseudo-rescans, per visit; multiples of 3 give every "
        "contrast the same share [%(default)s]",
    )  # fmt: skip
    add(
        "--max-visits", metavar="N", default=MAX_VISITS,
        help="check at most N visits, of as many participants as possible [%(default)s]",
    )  # fmt: skip
    add("--seed", metavar="N", default=0, help="seed of every random draw [%(default)s]")
    _add_query_options(parser)
    _add_run_options(parser)
    parser.add_common_options()
    return parser


def _add_query_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that have the same meaning as in ``msseg``."""
    group = parser.add_argument_group("which visits, as for msseg")
    several: dict[str, Any] = {"nargs": "+", "action": "extend"}
    for name, nouns in (("participant", "participants"), ("session", "sessions")):
        text = f"only these {nouns}; or a file with one per line"
        group.add_argument(f"--{name}-label", metavar="LABEL..", help=text, **several)
    group.add_argument(
        "--ignore", metavar="CONTRAST..", help="leave these contrasts out: t1w, t2w", **several
    )
    group.add_argument("--bids-filter-file", metavar="FILE", help="JSON of pybids entities")
    group.add_argument(
        "-d", "--derivatives", metavar="PATH..", help="datasets with brain masks", **several
    )
    group.add_argument(
        "--skip-bids-validation",
        action="store_true",
        default=None,
        help="do not check the dataset description",
    )


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("processing, as for msseg")
    for name, metavar, text in (
        ("model", "PATH|NAME", "weights [the bundled ones]"),
        ("threshold", "P", "lesion at or above this probability, 0-1 [the model's]"),
        ("min-lesion-volume", "MM3", "drop smaller lesions, in mm³ [3]"),
        ("device", "DEVICE", "auto, cpu, cuda[:N] or mps, for the networks [auto]"),
        ("nprocs", "N", "CPUs of the whole run; without a GPU, visits run in parallel [all]"),
        ("omp-nthreads", "N", "threads of one visit [CPUs, at most 8]"),
        ("work-dir", "DIR", "intermediate files [OUTPUT_DIR/.work]"),
    ):
        group.add_argument(f"--{name}", metavar=metavar, help=text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    try:
        arguments = vars(build_parser().parse_args(argv))
        verbose = int(arguments.pop("verbose"))
        check_options = _pop_check_options(arguments)
        options = {name: value for name, value in arguments.items() if value is not None}
        fixed = {"levels": ["participant"], "random_seed": check_options["seed"]}
        config = RunConfig.from_options({**options, **fixed})
    except MssegError as error:
        return int(refuse(error, program=PROGRAM))
    return int(
        supervise(
            lambda: _run(config, check_options),
            verbose=verbose,
            crash_folder=config.output_dir / "logs",
        )
    )


def _pop_check_options(arguments: dict[str, Any]) -> dict[str, int]:
    """Remove and parse the options that ``msseg`` does not have."""
    option_readers: dict[str, Callable[[object], int]] = {
        "draws": readers.integer(1, MAX_DRAWS),
        "max_visits": readers.integer(1),
        "seed": readers.integer(0, MAX_SEED),
    }
    return {
        name: _read(name, arguments.pop(name), reader) for name, reader in option_readers.items()
    }


def _read(name: str, value: object, reader: Callable[[object], int]) -> int:
    try:
        return reader(value)
    except ValueError as error:
        message = f"invalid value for {as_flag(name)}: {value}"
        raise UsageError(message, hint=f"use {error}") from error


def _run(config: RunConfig, check_options: Mapping[str, int]) -> ExitCode:
    check_inputs(config)
    from bids_msseg.check.jobs import Plan
    from bids_msseg.check.run import check_dataset

    return check_dataset(config, Plan(check_options["draws"], check_options["max_visits"]))


if __name__ == "__main__":
    raise SystemExit(main())
