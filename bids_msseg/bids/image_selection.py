"""Checks of file names, and choice among several images of one contrast, with reasons."""

from __future__ import annotations

import math
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from bids_msseg.bids.visit import LABEL, name_entities, visit_key
from bids_msseg.errors import MssegError
from bids_msseg.imaging.conform import check_image
from bids_msseg.imaging.header import check_header

MIN_EXTENT_MM: Final = 95.0
"""Field of view that a whole brain needs along every axis. Assumed: less than a brain measures
from the vertex to the medulla, more than localizers, sagittal images of the cord and hippocampal
slabs cover along one axis."""
Sidecar = Callable[[Path], Mapping[str, Any]]
_POINTER_BYTES = 32768
_DERIVED = ("space", "desc", "label", "res", "den", "chunk", "split")
_FOLLOW = ("acq", "rec")
_ENTITY = re.compile(r"([a-z]+)-(.*)", re.DOTALL)
_NO_AGENT = ("", "none", "no", "n/a")
_MOTION = re.compile(r"motion|moving|movement")
_STILL = re.compile(r"no.?mot|without|free|corr|moco|still|rest|none")
_EMPTY, _NOT_FETCHED = "is empty", "is not fetched"


@dataclass(frozen=True, slots=True)
class Choice:
    """The image chosen for one contrast, and why.

    ``image`` is None if there is no image or the choice cannot be made. ``missing`` is an image
    that could have been chosen but whose content is not on this machine. ``problem`` says why the
    chosen image will fail; empty if nothing is known.
    """

    image: Path | None
    missing: Path | None = None
    notes: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Properties of an image that are known before any voxel is read.

    ``extent_mm`` is the field of view and ``edges_mm`` the voxel size (x, y, z); empty if
    unreadable. ``enhanced`` means with contrast agent, ``moving`` with deliberate motion.
    ``problem`` is a phrase that follows the file name.
    """

    path: Path
    extent_mm: tuple[float, ...] = ()
    edges_mm: tuple[float, ...] = ()
    problem: str = ""
    enhanced: bool = False
    moving: bool = False

    @property
    def covers_brain(self) -> bool:
        """Whether the field of view can hold a whole brain."""
        return min(self.extent_mm, default=0.0) >= MIN_EXTENT_MM

    @property
    def described(self) -> str:
        """File name and voxel size."""
        if self.edges_mm:
            return f"{self.path.name} ({math.prod(self.edges_mm):.3g} mm³ per voxel)"
        return self.path.name


def misnamed(image: Path, participant: str, session: str | None) -> str:
    """Return why a file name is not a complete BIDS name of a visit; empty if it is.

    Such a file may belong to another participant or session, or come from another program. The
    text is a phrase that follows the file name.

    Examples
    --------
    >>> misnamed(Path("sub-02_FLAIR.nii.gz"), "01", None)
    'is named sub-02 but is in the folder of sub-01'
    >>> misnamed(Path("rsub-02_FLAIR.nii.gz"), "01", None)
    'is not a BIDS name of sub-01'
    >>> misnamed(Path("sub-01_ses-2_FLAIR.nii.gz"), "01", "2")
    ''
    """
    entities, _ = name_entities(image.name)
    for name, label in (("sub", participant), ("ses", session)):
        value = entities.get(name)
        if value is not None and value != label:
            location = f"in the folder of {name}-{label}" if label else f"not in a {name}- folder"
            return f"is named {name}-{value} but is {location}"
    pairs = image.name.partition(".")[0].split("_")[:-1]
    key = visit_key(participant, session)
    pattern = rf"{re.escape(key)}(?:_[a-z]+-{LABEL})*_[0-9a-zA-Z]+\.nii(?:\.gz)?"
    if re.fullmatch(pattern, image.name) and len(entities) == len(pairs):
        return ""
    for pair in pairs:
        match = _ENTITY.fullmatch(pair)
        if match and not re.fullmatch(LABEL, match[2]):
            return f"has {pair}, which is not a valid BIDS label"
    return f"is not a BIDS name of {key}"


def choose_image(
    contrast: str,
    images: Sequence[Path],
    flair: Mapping[str, str] | None = None,
    *,
    sidecar: Sidecar = lambda _: {},
) -> Choice:
    """Choose one of the images of a contrast at one visit.

    Criteria in order: whole-brain field of view, readable, not derived, no contrast agent, no
    motion, shorter longest edge, smaller voxel, lower run, ``acq``/``rec`` of the FLAIR, name.
    Images that fail checks come last. If one that could win is not fetched, ``image`` is None.
    """
    usable = [path for path in images if name_entities(path.name)[0].get("part", "mag") == "mag"]
    if not usable:
        return Choice(None)
    least = min(map(_name_rank, usable))
    best = [path for path in sorted(usable) if _name_rank(path) == least]
    missing = next((path for path in best if not is_fetched(path)), None)
    if missing:
        return Choice(None, missing)
    candidates = (examine(path, sidecar(path), header=len(usable) > 1) for path in usable)
    ranked = sorted(candidates, key=lambda candidate: _rank(candidate, flair))
    chosen, faults = _first_usable(ranked)
    unfetched = next(
        (candidate.path for candidate in ranked if candidate.problem == _NOT_FETCHED), None
    )
    if unfetched and (chosen.path in faults or not chosen.covers_brain):
        return Choice(None, unfetched)
    reasons = {path: "not a magnitude image" for path in sorted(images) if path not in usable}
    reasons |= {
        candidate.path: _rejection_reason(candidate, chosen, faults, flair)
        for candidate in ranked
        if candidate != chosen
    }
    fault = faults.get(chosen.path, "")
    return Choice(
        chosen.path,
        notes=(*_note(contrast, chosen, reasons, fault), *_remarks(contrast, chosen)),
        problem=fault and f"{chosen.path.name} {fault}",
    )


def examine(
    path: Path, metadata: Mapping[str, Any] | None = None, *, header: bool = True
) -> Candidate:
    """Examine the name and sidecar of an image and, with ``header``, its header."""
    entities, _ = name_entities(path.name)
    enhanced, moving = is_enhanced(entities, metadata or {}), shows_motion(entities)
    candidate = Candidate(path, enhanced=enhanced, moving=moving)
    if not is_fetched(path):
        return replace(candidate, problem=_NOT_FETCHED)
    if _is_empty(path):
        return replace(candidate, problem=_EMPTY)
    if not header:
        return candidate
    try:
        image_header = check_header(path)
    except (MssegError, OSError) as error:
        return replace(candidate, problem=_fault(error, path))
    extent = tuple(
        n * edge for n, edge in zip(image_header.shape, image_header.spacing, strict=True)
    )
    return replace(candidate, extent_mm=extent, edges_mm=image_header.spacing)


def is_enhanced(entities: Mapping[str, str], metadata: Mapping[str, Any]) -> bool:
    """Tell whether the name or the sidecar reports a contrast agent.

    Examples
    --------
    >>> is_enhanced({"ce": "gd"}, {}), is_enhanced({}, {"ContrastBolusIngredient": "GADOLINIUM"})
    (True, True)
    >>> is_enhanced({}, {"ContrastBolusIngredient": "none"}), is_enhanced({"acq": "ce"}, {})
    (False, False)
    """
    agent = metadata.get("ContrastBolusIngredient")
    agents = [entities.get("ce"), *(agent if isinstance(agent, list) else [agent])]
    return any(
        str(value).strip().casefold() not in _NO_AGENT for value in agents if value is not None
    )


def shows_motion(entities: Mapping[str, str]) -> bool:
    """Tell whether the name says that the participant moved on purpose.

    Examples
    --------
    >>> shows_motion({"task": "nod"}), shows_motion({"rec": "motion"}), shows_motion({"rec": "n4"})
    (True, True, False)
    >>> shows_motion({"task": "rest"}), shows_motion({"rec": "motioncorrected"})
    (False, False)
    """
    task, *labels = (entities.get(name, "").casefold() for name in ("task", *_FOLLOW))
    if task and not _STILL.search(task):
        return True
    return any(_MOTION.search(label) and not _STILL.search(label) for label in labels)


def _name_rank(path: Path) -> tuple[int, ...]:
    """Rank an image by its name alone, if nothing else is known."""
    entities, _ = name_entities(path.name)
    return _derived(entities), int(is_enhanced(entities, {})), int(shows_motion(entities))


def _derived(entities: Mapping[str, str]) -> int:
    return sum(name in entities for name in _DERIVED)


def _criteria(
    candidate: Candidate, flair: Mapping[str, str] | None
) -> tuple[tuple[Any, str], ...]:
    """List the criteria, smaller is better, each with a phrase for a worse image."""
    entities, _ = name_entities(candidate.path.name)
    longest = round(max(candidate.edges_mm, default=math.inf), 3)
    volume = round(math.prod(candidate.edges_mm), 3) if candidate.edges_mm else math.inf
    run = entities.get("run", "")
    differs = [flair is not None and entities.get(name) != flair.get(name) for name in _FOLLOW]
    return (
        (not candidate.covers_brain, f"covers only {min(candidate.extent_mm, default=0):.0f} mm"),
        (bool(candidate.problem), "unreadable"),
        (_derived(entities), "derived image"),
        (candidate.enhanced, "contrast agent"),
        (candidate.moving, "acquired with motion"),
        (longest, f"edges of {longest:.3g} mm"),
        (volume, f"{volume:.3g} mm³ per voxel"),
        (int(run) if run.isdecimal() else 0, "higher run"),
        (differs, "acq- or rec- differs from the FLAIR"),
        (candidate.path.name, "otherwise equal"),
    )


def _rank(candidate: Candidate, flair: Mapping[str, str] | None) -> tuple[Any, ...]:
    return tuple(value for value, _ in _criteria(candidate, flair))


def _first_usable(ranked: Sequence[Candidate]) -> tuple[Candidate, dict[Path, str]]:
    """Find the first image that passes its checks, and the faults of those before it.

    A single image is not read: errors are reported when its visit is processed.
    """
    faults: dict[Path, str] = {}
    for candidate in ranked:
        fault = candidate.problem or (_check(candidate.path) if len(ranked) > 1 else "")
        if not fault:
            return candidate, faults
        faults[candidate.path] = fault
    return ranked[0], faults


def _check(path: Path) -> str:
    try:
        check_image(path)
    except (MssegError, OSError) as error:
        return _fault(error, path)
    return ""


def _fault(error: MssegError | OSError, path: Path) -> str:
    """Describe an error without the folder, which is private."""
    if isinstance(error, MssegError):
        return error.message.removeprefix(f"the image {path} ")
    return f"cannot be read: {error.strerror}"


def _rejection_reason(
    candidate: Candidate,
    chosen: Candidate,
    faults: Mapping[Path, str],
    flair: Mapping[str, str] | None,
) -> str:
    """Return a short reason why an image was not chosen."""
    if candidate.problem:
        phrases = {_EMPTY: "empty", _NOT_FETCHED: "not fetched"}
        return phrases.get(candidate.problem, "unreadable")
    if candidate.path in faults:
        return f"fails its checks: {faults[candidate.path]}"
    pairs = zip(_criteria(candidate, flair), _criteria(chosen, flair), strict=True)
    return next(phrase for (value, phrase), (better, _) in pairs if value != better)


def _note(
    contrast: str, chosen: Candidate, reasons: Mapping[Path, str], fault: str
) -> tuple[str, ...]:
    if not reasons:
        return ()
    rejected = ", ".join(f"{path.name} ({reason})" for path, reason in reasons.items())
    note = (
        f"{len(reasons) + 1} {contrast} images: {chosen.described} is used, {rejected} "
        f"{'is' if len(reasons) == 1 else 'are'} not"
    )
    if fault:
        note += "; none passes its checks"
    elif chosen.edges_mm and not chosen.covers_brain:
        note += "; none covers a whole brain"
    return (note,)


def _remarks(contrast: str, chosen: Candidate) -> tuple[str, ...]:
    properties = ((chosen.enhanced, "with a contrast agent"), (chosen.moving, "with motion"))
    return tuple(
        f"{chosen.path.name} was acquired {phrase}: no other {contrast} can be used"
        for present, phrase in properties
        if present
    )


def _is_empty(path: Path) -> bool:
    try:
        return path.is_file() and path.stat().st_size == 0
    except OSError:
        return False


def is_fetched(path: Path) -> bool:
    """Return whether the content of a file is on this machine.

    Detects the two placeholders of DataLad and git-annex: a broken link into ``.git/annex``, and a
    small text file with the annex key (unlocked files and file systems without links).
    """
    try:
        status = path.stat()
        if status.st_size > _POINTER_BYTES or not stat.S_ISREG(status.st_mode):
            return True
        with path.open("rb") as stream:
            return not stream.read(15).startswith(b"/annex/objects/")
    except OSError:
        return not path.is_symlink() and path.exists()
