"""Brain masks that another pipeline has already made for a visit."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from bids_msseg.bids.choose import is_fetched, misnamed
from bids_msseg.bids.visit import PREFIX_ENTITIES, name_entities, visit_key
from bids_msseg.errors import NoInputError

_BRAIN_MASK = re.compile(r".*_(?:desc|label)-brain_.*mask\.nii(?:\.gz)?", re.IGNORECASE)
_GRID_TOLERANCE_MM = 1e-2
_UNREADABLE = (OSError, EOFError, ValueError, OverflowError, zlib.error)
"""What nibabel lets through beside its own when a header is damaged."""


@dataclass(frozen=True, slots=True)
class FoundMask:
    """What the derivatives hold for one visit.

    Attributes
    ----------
    mask : Path or None
        A brain mask in the grid of the FLAIR.
    missing : Path or None
        A brain mask whose content is not on this machine.
    note : str
        Where it came from, or why none is used.
    """

    mask: Path | None = None
    missing: Path | None = None
    note: str = ""


def check_derivatives(derivatives: Mapping[str, Path]) -> None:
    """Refuse derivative folders that are not there.

    Raises
    ------
    NoInputError
        Where a folder does not exist.
    """
    for name, folder in derivatives.items():
        if not folder.is_dir():
            raise NoInputError(
                f"the derivatives {name} are not at {folder}",
                hint="give the folder that holds the sub-* folders: --derivatives NAME=PATH",
            )


def find_brain_mask(
    flair: Path,
    participant: str,
    session: str | None,
    derivatives: Mapping[str, Path],
) -> FoundMask:
    """Look for a brain mask that fits a FLAIR, in the order of the derivatives.

    Parameters
    ----------
    flair : Path
        The FLAIR that will be used.
    participant, session : str, str or None
        Labels without prefix.
    derivatives : mapping of str to Path
        Name to top folder of a derivative dataset.

    Returns
    -------
    FoundMask
        Files named ``space-FLAIR`` come first; whatever its name, a mask counts only if its
        grid is the FLAIR's: same shape, and affine equal to a hundredth of a millimetre.
    """
    rejected: list[str] = []
    for name, folder in derivatives.items():
        for mask in _candidates(folder, flair, participant, session):
            if not is_fetched(mask):
                return FoundMask(missing=mask)
            if _same_grid(mask, flair):
                return FoundMask(mask, note=f"brain mask taken from {name}: {mask.name}")
            rejected.append(f"{mask.name} in {name}")
    if rejected:
        listing = ", ".join(rejected)
        return FoundMask(note=f"brain masks not in the grid of the FLAIR are not used: {listing}")
    key = visit_key(participant, session)
    names = ", ".join(derivatives)
    return FoundMask(note=f"no brain mask of {key} in {names}" if derivatives else "")


def _candidates(folder: Path, flair: Path, participant: str, session: str | None) -> list[Path]:
    anat = folder / f"sub-{participant}" / (f"ses-{session}" if session else "") / "anat"
    own = name_entities(flair.name)[0]
    masks = [
        path
        for path in _files(anat)
        if _BRAIN_MASK.fullmatch(path.name) and not misnamed(path, participant, session)
    ]
    return sorted(masks, key=lambda path: (_distance(path, own), path.name))


def _files(folder: Path) -> Iterable[Path]:
    return folder.iterdir() if folder.is_dir() else ()


def _distance(mask: Path, own: Mapping[str, str]) -> tuple[int, int]:
    entities = name_entities(mask.name)[0]
    differing = sum(entities.get(name) != own.get(name) for name in PREFIX_ENTITIES)
    return int(entities.get("space", "").lower() != "flair"), differing


def _same_grid(mask: Path, flair: Path) -> bool:
    try:
        first: Any = nib.load(mask)
        second: Any = nib.load(flair)
    except (*_UNREADABLE, ImageFileError, HeaderDataError):
        return False
    same_shape = first.shape[:3] == second.shape[:3]
    return same_shape and np.allclose(first.affine, second.affine, rtol=0, atol=_GRID_TOLERANCE_MM)
