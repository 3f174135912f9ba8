"""Consensus of the masks of several raters, for every visit of a dataset."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bids_msseg.errors import DataError, ExitCode, MssegError, NoInputError
from bids_msseg.lesions.mask_values import MaskValues

if TYPE_CHECKING:
    from bids_msseg.evaluation.raters import RatedVisit

LOGGER = logging.getLogger("bids_msseg")
Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Request:
    """Inputs and options of the fusion of raters' masks."""

    bids_dir: Path
    out_dir: Path
    derivatives: tuple[Path, ...] = ()  # by default, bids_dir is searched
    raters: tuple[str, ...] | None = None  # values of desc-
    algorithms: tuple[Path, ...] = ()  # compared without a vote
    space: str = "FLAIR"
    margin: int = 0  # dilation of the union of the masks, in voxels
    values: MaskValues = None


def fuse_dataset(request: Request) -> ExitCode:
    """Fuse the masks of every visit with two raters; return the code of the first that failed.

    Raises InvalidDatasetError or NoInputError without such a visit, UsageError or
    CannotCreateError if the output folder cannot be used.
    """
    from bids_msseg.evaluation.consensus_files import name_datasets, prepare_output, write_tables
    from bids_msseg.evaluation.raters import find_rated, rater_datasets

    datasets = rater_datasets(request.bids_dir, request.derivatives)
    for algorithm in request.algorithms:
        if not algorithm.is_dir():
            raise NoInputError(f"the folder {algorithm} does not exist", hint="check --algorithm")
    visits = _multi_rater_visits(
        find_rated(datasets, space=request.space, labels=request.raters), request
    )
    names = name_datasets(datasets)
    algorithms = name_datasets(request.algorithms)
    for note in prepare_output(request.bids_dir, request.out_dir, names):
        LOGGER.warning("%s", note)
    raters: Rows = []
    left_out: Rows = []
    failed: list[ExitCode] = []
    for rated in visits:
        try:
            rows = _fuse_visit(rated, request, names, algorithms)
        except MssegError as error:
            LOGGER.error("%s: %s", rated.visit.prefix, error)
            failed.append(error.code)
            continue
        raters += rows[0]
        left_out += rows[1]
    write_tables(request.out_dir, raters, left_out)
    LOGGER.info("%d visits fused, %d failed", len(visits) - len(failed), len(failed))
    return failed[0] if failed else ExitCode.SUCCESS


def _multi_rater_visits(visits: Sequence[RatedVisit], request: Request) -> list[RatedVisit]:
    for rated in visits:
        if len(rated.raters) < 2:
            LOGGER.warning(
                "%s skipped: only one rater, %s", rated.visit.prefix, next(iter(rated.raters))
            )
    several = [rated for rated in visits if len(rated.raters) >= 2]
    if not several:
        raise NoInputError(
            f"no visit has masks from at least two raters in the space {request.space}",
            hint="name them sub-<label>_space-FLAIR_label-L_desc-rater<label>_mask.nii.gz in a "
            "derivative dataset, or check --derivatives, --raters and --space",
        )
    return several


def _fuse_visit(
    rated: RatedVisit, request: Request, names: Mapping[str, Path], algorithms: Mapping[str, Path]
) -> tuple[Rows, Rows]:
    """Write all outputs of one visit and return its rows of both tables."""
    from bids_msseg.evaluation.consensus_files import left_out_rows, rater_rows, write_consensus
    from bids_msseg.evaluation.raters import read_masks
    from bids_msseg.lesions.raters.consensus import (
        METHODS,
        fuse_masks,
        leave_one_out,
        score_raters,
    )

    algorithm_paths = _find_algorithms(rated, algorithms, request.space)
    raters, algorithm_files = list(rated.raters.values()), list(algorithm_paths.values())
    masks, grid = read_masks(raters, values=request.values, algorithms=algorithm_files)
    rater_masks = dict(zip(rated.raters, masks, strict=False))
    algorithm_masks = dict(zip(algorithm_paths, masks[len(rater_masks) :], strict=True))
    if not any(mask.any() for mask in rater_masks.values()):
        LOGGER.warning("%s: all %d masks are empty", rated.visit.prefix, len(rater_masks))
    rows: Rows = []
    for method in METHODS:
        consensus = fuse_masks(
            list(rater_masks.values()), method, grid.spacing, margin=request.margin
        )
        write_consensus(
            request.out_dir, rated, consensus, grid, names,
            space=request.space, margin=request.margin, values=request.values,
        )  # fmt: skip
        rows += rater_rows(
            rated, consensus, score_raters(rater_masks, consensus, grid.voxel_volume)
        )
    compared = leave_one_out(
        rater_masks, grid.spacing, algorithms=algorithm_masks, margin=request.margin
    )
    LOGGER.info("%s: consensus of %d raters", rated.visit.prefix, len(rater_masks))
    return rows, left_out_rows(rated, compared)


def _find_algorithms(
    rated: RatedVisit, algorithms: Mapping[str, Path], space: str
) -> dict[str, Path]:
    from bids_msseg.evaluation.labels import find_truth

    masks: dict[str, Path] = {}
    for name, folder in algorithms.items():
        path = find_truth(folder, rated.visit, space=space)
        if path is None:
            LOGGER.warning("%s: no mask found in %s", rated.visit.prefix, folder)
        elif name in rated.raters:
            raise DataError(
                f"{name} is both a rater and an algorithm", hint="rename the algorithm's folder"
            )
        else:
            masks[name] = path
    return masks
