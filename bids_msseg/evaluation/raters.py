"""Finding and reading the masks that several raters drew of the same visit.

Public names: :class:`RatedVisit`, :func:`choose_raters`, :func:`find_rated`,
:func:`rater_datasets`, :func:`describe`, :func:`read_on_one_grid`, :func:`read_masks`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_msseg.bids.dataset import APP
from bids_msseg.bids.given_masks import LESION_LABELS
from bids_msseg.bids.visit import PREFIX_ENTITIES, Visit, name_entities, visit_order
from bids_msseg.errors import DataError, InvalidDatasetError, NoInputError
from bids_msseg.imaging.volume import UNREADABLE, Volume, is_same_grid, load_volume
from bids_msseg.lesions.mask_values import MaskValues, lesion_voxels

LOGGER = logging.getLogger("bids_msseg")
LABELS = LESION_LABELS
NO_RATERS = frozenset(
    {"brain", "candidate", "candidates", "rejected", "consensus", "majority", "staple"}
    | {"lopstaple"}
)
"""Values of ``desc-`` that name something else than a rater."""


@dataclass(frozen=True, slots=True)
class RatedVisit:
    """One visit with the masks of its raters.

    Attributes
    ----------
    visit : Visit
        Its ``flair`` is the first rater's mask, whose grid the results have.
    raters : mapping of str to path
        Label, the value of ``desc-``, to mask; in the order of the labels.
    """

    visit: Visit
    raters: Mapping[str, Path]


def choose_raters(
    paths: Iterable[Path],
    *,
    space: str = "FLAIR",
    labels: Collection[str] | None = None,
    any_name: bool = False,
) -> dict[str, Path]:
    """Choose one mask a rater among files of one visit.

    Parameters
    ----------
    paths : iterable of path
        Files of one visit.
    space : str, default "FLAIR"
        Value of ``space-``; files without one are taken for FLAIR.
    labels : collection of str, optional
        Values of ``desc-`` that are raters.
    any_name : bool, default False
        Where ``labels`` is not given: take every ``desc-`` of a lesion mask for a rater unless it
        is known to name something else, and not only ``desc-rater<label>``.

    Returns
    -------
    dict of str to path
        In the order of the raters. Of two files of one rater, the one with ``label-L`` counts.

    Examples
    --------
    >>> names = ["sub-1_desc-rater1_mask.nii", "sub-1_label-L_desc-rater1_mask.nii",
    ...          "sub-1_label-L_desc-AB_mask.nii", "sub-1_label-L_desc-rejected_mask.nii"]
    >>> {who: path.name for who, path in choose_raters(map(Path, names)).items()}
    {'rater1': 'sub-1_label-L_desc-rater1_mask.nii'}
    >>> list(choose_raters(map(Path, names), any_name=True))
    ['AB', 'rater1']
    """
    order = (*LABELS, "")
    found: dict[str, tuple[int, Path]] = {}
    for path in sorted(paths):
        entities, suffix = name_entities(path.name)
        label, rater = entities.get("label", ""), entities.get("desc", "")
        if suffix != "mask" or label not in order or entities.get("space", "FLAIR") != space:
            continue
        if not _is_rater(rater, label, labels, any_name):
            continue
        rank = order.index(label)
        if rater not in found or rank < found[rater][0]:
            found[rater] = (rank, path)
    return {rater: path for rater, (_, path) in sorted(found.items())}


def _is_rater(rater: str, label: str, labels: Collection[str] | None, any_name: bool) -> bool:
    if labels is not None:
        return rater in labels
    if rater.startswith("rater"):
        return True
    return any_name and rater != "" and label in LABELS and rater not in NO_RATERS


def rater_datasets(bids_dir: Path, derivatives: Sequence[Path] = ()) -> tuple[Path, ...]:
    """Name the datasets in which raters' masks are looked for.

    Parameters
    ----------
    bids_dir : path
        A raw dataset or a derivative one.
    derivatives : sequence of path, optional
        Where given, these and no others.

    Returns
    -------
    tuple of path
        Else the dataset itself if it is a derivative one, or all datasets below its
        ``derivatives`` that this program has not written.

    Raises
    ------
    NoInputError
        If a folder is not there, or there is no derivative dataset.
    InvalidDatasetError
        If ``bids_dir`` has no ``dataset_description.json``.
    """
    for folder in (bids_dir, *derivatives):
        if not folder.is_dir():
            raise NoInputError(f"there is no folder {folder}", hint="check the path")
    if derivatives:
        return tuple(derivatives)
    about = describe(bids_dir)
    if not about:
        raise InvalidDatasetError(
            f"{bids_dir} has no readable dataset_description.json",
            hint="give the top folder of a BIDS dataset",
        )
    if about.get("DatasetType") == "derivative":
        return (bids_dir,)
    folders = [path for path in sorted(bids_dir.glob("derivatives/*")) if path.is_dir()]
    found = tuple(path for path in folders if not _is_ours(path))
    if not found:
        raise NoInputError(
            f"{bids_dir} has no derivatives that could hold raters' masks",
            hint="put them into derivatives/manual, or say --derivatives FOLDER",
        )
    return found


def find_rated(
    datasets: Sequence[Path], *, space: str = "FLAIR", labels: Collection[str] | None = None
) -> list[RatedVisit]:
    """Find the visits of which there are raters' masks.

    Parameters
    ----------
    datasets : sequence of path
        Derivative datasets; raters of one visit may lie in several.
    space : str, default "FLAIR"
        Value of ``space-``; files without one are taken for FLAIR.
    labels : collection of str, optional
        Values of ``desc-`` that are raters; by default ``rater<label>``, and every other one of a
        mask with ``label-L`` that is not known to name something else.

    Returns
    -------
    list of RatedVisit
        In natural order of participant and session. Runs are visits of their own.

    Raises
    ------
    DataError
        If two datasets have a mask of the same rater and visit.
    """
    visits: dict[tuple[str, ...], dict[str, Path]] = {}
    for dataset in datasets:
        for key, paths in _by_visit(dataset).items():
            chosen = choose_raters(paths, space=space, labels=labels, any_name=True)
            known = visits.setdefault(key, {})
            for rater in known.keys() & chosen.keys():
                raise DataError(
                    f"{known[rater]} and {chosen[rater]} are masks of the same rater",
                    hint="choose with --derivatives or --raters, or rename one of them",
                )
            known.update(chosen)
    rated = [_rated(key, raters) for key, raters in visits.items() if raters]
    return sorted(
        rated,
        key=lambda one: (
            *visit_order(one.visit.participant, one.visit.session or ""),
            one.visit.prefix,
        ),
    )


def _by_visit(dataset: Path) -> dict[tuple[str, ...], list[Path]]:
    found: dict[tuple[str, ...], list[Path]] = {}
    for pattern in ("sub-*/anat/sub-*_mask.nii*", "sub-*/ses-*/anat/sub-*_mask.nii*"):
        for path in dataset.glob(pattern):
            entities, _ = name_entities(path.name)
            key = tuple(entities.get(name, "") for name in ("sub", "ses", *PREFIX_ENTITIES))
            found.setdefault(key, []).append(path)
    return found


def _rated(key: tuple[str, ...], raters: Mapping[str, Path]) -> RatedVisit:
    participant, session, *rest = key
    entities = {name: value for name, value in zip(PREFIX_ENTITIES, rest, strict=True) if value}
    ordered = dict(sorted(raters.items()))
    first = next(iter(ordered.values()))
    return RatedVisit(Visit(participant, session or None, first, entities=entities), ordered)


def describe(folder: Path) -> dict[str, Any]:
    """Read a dataset's ``dataset_description.json``; empty where that cannot be read."""
    try:
        text = (folder / "dataset_description.json").read_text(encoding="utf-8-sig")
        content = json.loads(text)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_ours(folder: Path) -> bool:
    makers = describe(folder).get("GeneratedBy")
    names = [one.get("Name") for one in makers or [] if isinstance(one, dict)]
    return APP in names


def read_on_one_grid(paths: Sequence[Path]) -> list[Volume]:
    """Read masks and check that they lie on one grid.

    Parameters
    ----------
    paths : sequence of path
        At least one.

    Returns
    -------
    list of Volume
        Values as float32.

    Raises
    ------
    DataError
        If a file cannot be read, is not three-dimensional or lies on another grid.
    """
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
    try:
        volume = load_volume(path)
    except UNREADABLE as error:
        raise DataError(
            f"{path.name} cannot be read: {error}", hint="write it as NIfTI again"
        ) from error
    if volume.data.ndim != 3:
        raise DataError(
            f"{path.name} has {volume.data.ndim} axes", hint="save a mask with three axes"
        )
    return volume


def read_masks(
    paths: Sequence[Path], *, values: MaskValues = None, algorithms: Sequence[Path] = ()
) -> tuple[list[NDArray[np.bool_]], Volume]:
    """Read the masks of one visit.

    Parameters
    ----------
    paths : sequence of path
        Of raters; at least one.
    values : tuple of int, optional
        Which values of theirs are lesion; any above zero where not given.
    algorithms : sequence of path
        Of programs, of which any value above zero is lesion.

    Returns
    -------
    masks : list of ndarray of bool, shape (X, Y, Z)
        Of the raters, then of the algorithms.
    grid : Volume
        The first mask.

    Raises
    ------
    DataError
        If a file cannot be read, is no mask or lies on another grid.
    """
    everybody = [*paths, *algorithms]
    asked = [values] * len(paths) + [None] * len(algorithms)
    volumes = read_on_one_grid(everybody)
    masks = []
    for volume, path, chosen in zip(volumes, everybody, asked, strict=True):
        mask, note = lesion_voxels(volume.data, path.name, chosen, fractions=False)
        if note:
            LOGGER.warning("%s", note)
        masks.append(mask)
    return masks, volumes[0].with_data(masks[0])
