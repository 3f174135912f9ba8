"""Which of several images of one contrast is used, and whether its content is there."""

from __future__ import annotations

import math
import stat
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from bids_msseg.bids.visit import name_entities

UNREADABLE = (OSError, EOFError, ValueError, OverflowError, zlib.error)
"""What nibabel lets through beside its own when a header is damaged."""
_POINTER_BYTES = 32768
_DERIVED = ("space", "desc", "label", "res", "den", "chunk", "split")
_FOLLOW = ("acq", "rec")


@dataclass(frozen=True, slots=True)
class Choice:
    """One image out of several.

    Attributes
    ----------
    image : Path or None
        The image to use; None where there is none, or where the choice cannot be made.
    missing : Path or None
        An image whose content is not on this machine and that could have been chosen.
    note : str
        Why this one, where there was a choice.
    """

    image: Path | None
    missing: Path | None = None
    note: str = ""


def misnamed(image: Path, participant: str, session: str | None) -> str:
    """Say where a file's name contradicts the folders that it lies in.

    Such a file may be another person's, or another day's.

    Parameters
    ----------
    image : Path
    participant, session : str, str or None
        Labels of the folders, without prefix.

    Returns
    -------
    str
        Words that follow the file's name; empty where nothing contradicts.

    Examples
    --------
    >>> misnamed(Path("sub-02_FLAIR.nii.gz"), "01", None)
    'says sub-02 and lies in the folder of sub-01'
    >>> misnamed(Path("sub-01_ses-2_FLAIR.nii.gz"), "01", "2")
    ''
    """
    entities, _ = name_entities(image.name)
    for name, label in (("sub", participant), ("ses", session)):
        told = entities.get(name)
        if told is not None and told != label:
            there = f"in the folder of {name}-{label}" if label else f"in no folder of a {name}-"
            return f"says {name}-{told} and lies {there}"
    return ""


def choose_image(
    contrast: str, images: Sequence[Path], flair: Mapping[str, str] | None = None
) -> Choice:
    """Choose the image to use among those of one contrast at one visit.

    Complete, real-valued, underived images come first; for a contrast beside the FLAIR, then
    those without contrast agent and with the FLAIR's ``acq`` and ``rec``; then the smallest
    voxels; then the first by name.

    Parameters
    ----------
    contrast : str
        BIDS suffix, for the note.
    images : sequence of Path
        Candidates.
    flair : mapping of str to str, optional
        Entities of the FLAIR, when choosing an image to go with it.

    Returns
    -------
    Choice
        Where a candidate that could win is not fetched, no other one is taken silently in its
        place: ``image`` is None and ``missing`` names it.
    """
    usable = [path for path in images if name_entities(path.name)[0].get("part", "mag") == "mag"]
    if not usable:
        return Choice(None)
    ranks = {path: _rank(name_entities(path.name)[0], flair) for path in usable}
    best = sorted(path for path in usable if ranks[path] == min(ranks.values()))
    missing = next((path for path in best if not is_fetched(path)), None)
    if missing:
        return Choice(None, missing)
    volumes = {path: voxel_volume(path) for path in best} if len(best) > 1 else {}
    chosen = min(best, key=lambda path: (volumes.get(path, 0.0), path.name))
    return Choice(chosen, note=_note(contrast, chosen, images, volumes))


def _rank(entities: Mapping[str, str], flair: Mapping[str, str] | None) -> tuple[int, ...]:
    derived = sum(name in entities for name in _DERIVED)
    if flair is None:
        return (derived,)
    agent = int("ce" in entities)
    return (derived, agent, *(int(entities.get(name) != flair.get(name)) for name in _FOLLOW))


def _note(
    contrast: str, chosen: Path, images: Sequence[Path], volumes: Mapping[Path, float]
) -> str:
    if len(images) < 2:
        return ""
    others = ", ".join(_describe(path, volumes) for path in sorted(images) if path != chosen)
    return (
        f"{len(images)} {contrast} images: {_describe(chosen, volumes)} is used, {others} "
        f"{'is' if len(images) == 2 else 'are'} not"
    )


def _describe(path: Path, volumes: Mapping[Path, float]) -> str:
    volume = volumes.get(path)
    if volume is None:
        return path.name
    size = f"{volume:.3g} mm³ a voxel" if math.isfinite(volume) else "unreadable"
    return f"{path.name} ({size})"


def voxel_volume(image: Path) -> float:
    """Return the volume of one voxel in mm³, to a thousandth; infinity where unreadable.

    Parameters
    ----------
    image : Path
        A NIfTI file; only its header is read.
    """
    try:
        header: Any = nib.load(image)
        affine = header.affine
    except (*UNREADABLE, ImageFileError, HeaderDataError):
        return math.inf
    volume = abs(float(np.linalg.det(affine[:3, :3])))
    return round(volume, 3) if math.isfinite(volume) and volume > 0 else math.inf


def is_fetched(path: Path) -> bool:
    """Tell whether a file's content is on this machine.

    Not so for the two ways in which DataLad and git-annex stand in for a file: a link into
    ``.git/annex`` that leads nowhere, and a small text file that names the annex key (unlocked
    files and file systems without links).
    """
    try:
        status = path.stat()
        if status.st_size > _POINTER_BYTES or not stat.S_ISREG(status.st_mode):
            return True
        with path.open("rb") as stream:
            return not stream.read(15).startswith(b"/annex/objects/")
    except OSError:
        return not path.is_symlink() and path.exists()
