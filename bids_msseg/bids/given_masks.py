"""Existing masks of a visit, from a person or another program."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib

from bids_msseg.bids.image_selection import is_fetched, misnamed
from bids_msseg.bids.visit import PREFIX_ENTITIES, name_entities, visit_key
from bids_msseg.errors import NoInputError
from bids_msseg.imaging.cut import find_drawn_cut
from bids_msseg.imaging.volume import UNREADABLE, is_same_grid
from bids_msseg.option_files import pattern_root
from bids_msseg.spaces import fill_in

LESION_LABELS = ("L", "lesion")
"""Values of ``label-`` that mean lesion; BIDS advises the first, the second is as common."""
_IMAGE = (".nii", ".nii.gz")
_BRAIN_MASK = re.compile(r".*_(?:desc|label)-brain_.*mask\.nii(?:\.gz)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class FoundMask:
    """A mask found for one visit, or why none is used."""

    mask: Path | None = None
    missing: Path | None = None  # a mask whose content is not on this machine
    note: str = ""


def check_derivatives(derivatives: Mapping[str, Path]) -> None:
    """Raise NoInputError if a derivative folder does not exist."""
    for name, folder in derivatives.items():
        if not folder.is_dir():
            raise NoInputError(
                f"no folder of the derivatives {name} found at {folder}",
                hint="pass the folder that holds the sub-* folders: --derivatives NAME=PATH",
            )


def find_brain_mask(
    flair: Path, participant: str, session: str | None, derivatives: Mapping[str, Path]
) -> FoundMask:
    """Find a brain mask on the grid of the FLAIR, first those named ``space-FLAIR``."""
    rejected: list[str] = []
    for name, folder in derivatives.items():
        for mask in _candidates(folder, flair, participant, session, _is_brain_mask):
            if not is_fetched(mask):
                return FoundMask(missing=mask)
            if same_grid(mask, flair):
                return FoundMask(mask, note=f"brain mask taken from {name}: {mask.name}")
            rejected.append(f"{mask.name} in {name}")
    if rejected:
        listing = ", ".join(rejected)
        return FoundMask(note=f"brain masks not on the grid of the FLAIR are not used: {listing}")
    key = visit_key(participant, session)
    names = ", ".join(derivatives)
    return FoundMask(note=f"no brain mask of {key} in {names}" if derivatives else "")


def find_lesion_mask(
    flair: Path, participant: str, session: str | None, sources: Mapping[str, Path]
) -> FoundMask:
    """Find the first lesion mask of a visit, on any grid, in datasets or path patterns."""
    for name, source in sources.items():
        masks = _masks(source, flair, participant, session, is_lesion_mask)
        if not masks:
            continue
        if not is_fetched(masks[0]):
            return FoundMask(missing=masks[0])
        return FoundMask(masks[0], note=f"lesion mask taken from {name}: {masks[0].name}")
    return FoundMask(note=f"no lesion mask in {', '.join(sources)}")


def find_exclude_masks(
    flair: Path, participant: str, session: str | None, sources: Mapping[str, Path]
) -> tuple[FoundMask, ...]:
    """Find the masks of tissue that is not lesion, on any grid, in datasets or path patterns."""
    return tuple(
        FoundMask(mask, note=f"exclusion mask taken from {name}: {mask.name}")
        if is_fetched(mask)
        else FoundMask(missing=mask)
        for name, source in sources.items()
        for mask in _masks(source, flair, participant, session, _is_exclude_mask)
    )


def is_lesion_mask(name: str) -> bool:
    """Return from the name whether a file is a lesion mask in the space of the FLAIR."""
    entities = name_entities(name)[0]
    return (
        _is_mask_on_flair(name)
        and entities.get("label") in LESION_LABELS
        and "desc" not in entities
    )


def _is_exclude_mask(name: str) -> bool:
    return _is_mask_on_flair(name) and not _is_brain_mask(name)


def _is_mask_on_flair(name: str) -> bool:
    entities, suffix = name_entities(name)
    on_flair = entities.get("space", "FLAIR").lower() == "flair"
    return suffix == "mask" and on_flair and name.endswith(_IMAGE)


def _masks(
    source: Path,
    flair: Path,
    participant: str,
    session: str | None,
    accepts: Callable[[str], bool],
) -> list[Path]:
    """List the masks of a visit in a dataset, or the one file of a pattern."""
    if pattern_root(source) == source:
        masks = _candidates(source, flair, participant, session, accepts)
        return [mask for mask in masks if _may_belong_to(mask, flair)]
    path = fill_in(str(source), participant, session)
    if path is None or (session is not None and "{session}" not in str(source)):
        # one file for all sessions would be a mask of another day
        return []
    # a broken link is a file that is not fetched
    return [path] if path.is_file() or path.is_symlink() else []


def _may_belong_to(mask: Path, flair: Path) -> bool:
    """Return whether no entity in a mask's name contradicts that of the FLAIR."""
    mask_entities, flair_entities = name_entities(mask.name)[0], name_entities(flair.name)[0]
    return all(
        mask_entities.get(entity, flair_entities.get(entity)) == flair_entities.get(entity)
        for entity in PREFIX_ENTITIES
    )


def _is_brain_mask(name: str) -> bool:
    return _BRAIN_MASK.fullmatch(name) is not None


def _candidates(
    folder: Path,
    flair: Path,
    participant: str,
    session: str | None,
    accepts: Callable[[str], bool],
) -> list[Path]:
    anat = folder / f"sub-{participant}" / (f"ses-{session}" if session else "") / "anat"
    flair_entities = name_entities(flair.name)[0]
    masks = [
        path
        for path in (anat.iterdir() if anat.is_dir() else ())
        if accepts(path.name) and not misnamed(path, participant, session)
    ]
    return sorted(masks, key=lambda path: (_distance(path, flair_entities), path.name))


def _distance(mask: Path, flair_entities: Mapping[str, str]) -> tuple[int, int]:
    entities = name_entities(mask.name)[0]
    differing = sum(entities.get(name) != flair_entities.get(name) for name in PREFIX_ENTITIES)
    return int(entities.get("space", "").lower() != "flair"), differing


def same_grid(mask: Path, flair: Path, *, allow_drawn: bool = False) -> bool:
    """Return whether two readable images have one grid, or with ``allow_drawn`` a drawn mask."""
    try:
        first: Any = nib.load(mask)
        second: Any = nib.load(flair)
        if allow_drawn and find_drawn_cut(mask, second.shape[:3], second.affine):
            return True
    except UNREADABLE:
        return False
    return is_same_grid(first.shape[:3], first.affine, second.shape[:3], second.affine)
