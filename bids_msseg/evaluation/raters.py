"""Finding and reading the masks that several raters drew of the same visit."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bids_msseg.bids.dataset import APP, generator_names, read_description
from bids_msseg.bids.given_masks import LESION_LABELS
from bids_msseg.bids.image_selection import misnamed
from bids_msseg.bids.visit import PREFIX_ENTITIES, Visit, name_entities, visit_order
from bids_msseg.errors import DataError, InvalidDatasetError, NoInputError
from bids_msseg.imaging.volume import Volume, is_same_grid, load_or_raise
from bids_msseg.lesions.mask_values import MaskValues, lesion_voxels

LOGGER = logging.getLogger("bids_msseg")
LABELS = LESION_LABELS
NO_RATERS = frozenset(
    {"brain", "candidate", "candidates", "rejected", "consensus", "majority", "staple"}
    | {"lopstaple"}
)
"""Values of ``desc-`` that name something else than a rater."""
_MAX_LISTED: Final = 8


@dataclass(frozen=True, slots=True)
class RatedVisit:
    """One visit and the masks of its raters, by value of ``desc-``, in order of labels."""

    visit: Visit  # its flair is the mask of the first rater, which defines the grid
    raters: Mapping[str, Path]


def choose_raters(
    paths: Iterable[Path],
    *,
    space: str = "FLAIR",
    labels: Collection[str] | None = None,
    any_name: bool = False,
) -> dict[str, Path]:
    """Choose one mask per rater (value of ``desc-``) of one visit, with ``label-L`` if possible.

    Without ``labels``, raters are ``desc-rater<label>``, with ``any_name`` also other values.
    """
    order = (*LABELS, "")
    ranked: dict[str, tuple[int, Path]] = {}
    for path in sorted(paths):
        entities, suffix = name_entities(path.name)
        label, rater = entities.get("label", ""), entities.get("desc", "")
        if suffix != "mask" or label not in order or entities.get("space", "FLAIR") != space:
            continue
        if not _is_rater(rater, label, labels, any_name):
            continue
        rank = order.index(label)
        if rater not in ranked or rank < ranked[rater][0]:
            ranked[rater] = (rank, path)
    return {rater: path for rater, (_, path) in sorted(ranked.items())}


def _is_rater(rater: str, label: str, labels: Collection[str] | None, any_name: bool) -> bool:
    if labels is not None:
        return rater in labels
    if rater.startswith("rater"):
        return True
    return any_name and rater != "" and label in LABELS and rater not in NO_RATERS


def rater_datasets(bids_dir: Path, derivatives: Sequence[Path] = ()) -> tuple[Path, ...]:
    """List datasets with raters' masks: given ones, a derivative, or derivatives of a raw dataset.

    Raises NoInputError if there is none, InvalidDatasetError without a dataset description.
    """
    for folder in (bids_dir, *derivatives):
        if not folder.is_dir():
            raise NoInputError(f"the folder {folder} does not exist", hint="check the path")
    if derivatives:
        return tuple(derivatives)
    about = read_description(bids_dir)
    if not about:
        raise InvalidDatasetError(
            f"{bids_dir} has no readable dataset_description.json",
            hint="pass the root folder of a BIDS dataset",
        )
    if about.get("DatasetType") == "derivative":
        return (bids_dir,)
    folders = [path for path in sorted(bids_dir.glob("derivatives/*")) if path.is_dir()]
    datasets = tuple(
        path for path in folders if APP not in generator_names(read_description(path))
    )
    if not datasets:
        raise NoInputError(
            f"no derivatives with raters' masks found in {bids_dir}",
            hint="put the masks into derivatives/manual, or pass --derivatives FOLDER",
        )
    return datasets


def find_rated(
    datasets: Sequence[Path], *, space: str = "FLAIR", labels: Collection[str] | None = None
) -> list[RatedVisit]:
    """Find the visits with raters' masks, in natural order; each run is its own visit.

    Raises DataError if two datasets have a mask of the same rater and visit.
    """
    visits: dict[tuple[str, ...], dict[str, Path]] = {}
    for dataset in datasets:
        for key, paths in _by_visit(dataset).items():
            chosen = choose_raters(paths, space=space, labels=labels, any_name=True)
            masks = visits.setdefault(key, {})
            for rater in masks.keys() & chosen.keys():
                raise DataError(
                    f"{masks[rater]} and {chosen[rater]} are masks of the same rater",
                    hint="select one with --derivatives or --raters, or rename one of them",
                )
            masks.update(chosen)
    rated = [_rated(key, raters) for key, raters in visits.items() if raters]
    return sorted(
        rated,
        key=lambda rated_visit: (
            *visit_order(rated_visit.visit.participant, rated_visit.visit.session or ""),
            rated_visit.visit.prefix,
        ),
    )


def complete_names(dataset: Path, paths: Iterable[Path]) -> list[Path]:
    """Return the files with a complete BIDS name of the visit of their folder; log the others."""
    return complete_names_of((path, *_visit_of_folder(path, dataset)) for path in paths)


def complete_names_of(files: Iterable[tuple[Path, str, str | None]]) -> list[Path]:
    """Return the files with a complete name of their participant and session; log the others."""
    problems = {path: misnamed(path, participant, session) for path, participant, session in files}
    wrong = [f"{path.name} {problem}" for path, problem in problems.items() if problem]
    if wrong:
        more = f"; and {len(wrong) - _MAX_LISTED} more" if len(wrong) > _MAX_LISTED else ""
        LOGGER.warning("not used: %s%s", "; ".join(wrong[:_MAX_LISTED]), more)
    return [path for path, problem in problems.items() if not problem]


def _visit_of_folder(path: Path, dataset: Path) -> tuple[str, str | None]:
    """Return the labels of the folders of a file; without ``ses-`` folder that of the file."""
    participant, *below = path.relative_to(dataset).parts
    if below[0].startswith("ses-"):
        return participant.removeprefix("sub-"), below[0].removeprefix("ses-")
    return participant.removeprefix("sub-"), name_entities(path.name)[0].get("ses")


def _by_visit(dataset: Path) -> dict[tuple[str, ...], list[Path]]:
    visits: dict[tuple[str, ...], list[Path]] = {}
    patterns = ("sub-*/anat/*_mask.nii*", "sub-*/ses-*/anat/*_mask.nii*")
    paths = [path for pattern in patterns for path in sorted(dataset.glob(pattern))]
    for path in complete_names(dataset, paths):
        entities, _ = name_entities(path.name)
        key = tuple(entities.get(name, "") for name in ("sub", "ses", *PREFIX_ENTITIES))
        visits.setdefault(key, []).append(path)
    return visits


def _rated(key: tuple[str, ...], raters: Mapping[str, Path]) -> RatedVisit:
    participant, session, *rest = key
    entities = {name: value for name, value in zip(PREFIX_ENTITIES, rest, strict=True) if value}
    ordered = dict(sorted(raters.items()))
    first = next(iter(ordered.values()))
    return RatedVisit(Visit(participant, session or None, first, entities=entities), ordered)


def read_on_one_grid(paths: Sequence[Path]) -> list[Volume]:
    """Read at least one mask as float32; raises DataError if one is unusable or grids differ."""
    volumes = [_load(path) for path in paths]
    first = volumes[0]
    for volume, path in zip(volumes, paths, strict=True):
        if not is_same_grid(volume.shape, volume.affine, first.shape, first.affine):
            raise DataError(
                f"{path.name} is not on the grid of {paths[0].name}",
                hint="resample the raters' masks onto the FLAIR (nearest neighbour)",
            )
    return volumes


def _load(path: Path) -> Volume:
    volume = load_or_raise(path, f"{path.name} cannot be read", hint="save it as NIfTI again")
    if volume.data.ndim != 3:
        raise DataError(f"{path.name} has {volume.data.ndim} dimensions", hint="save a 3-D mask")
    return volume


def read_masks(
    paths: Sequence[Path], *, values: MaskValues = None, algorithms: Sequence[Path] = ()
) -> tuple[list[NDArray[np.bool_]], Volume]:
    """Read masks of one visit, raters (with lesion ``values``) first, and return their grid."""
    all_paths = [*paths, *algorithms]
    lesion_values = [values] * len(paths) + [None] * len(algorithms)
    volumes = read_on_one_grid(all_paths)
    masks = []
    for volume, path, chosen in zip(volumes, all_paths, lesion_values, strict=True):
        mask, note = lesion_voxels(volume.data, path.name, chosen, fractions=False)
        if note:
            LOGGER.warning("%s", note)
        masks.append(mask)
    return masks, volumes[0].with_data(masks[0])
