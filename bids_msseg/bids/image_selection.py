"""Checks of file names, and choice among several images of one contrast, with reasons."""

from __future__ import annotations

import math
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from bids_msseg.bids.visit import CONTRASTS, LABEL, name_entities, visit_key
from bids_msseg.errors import MssegError
from bids_msseg.imaging.conform import check_image
from bids_msseg.imaging.header import FewSlicesError, check_header

# assumed: less than a brain from vertex to medulla, more than slabs and cord images on one axis
MIN_EXTENT_MM: Final = 95.0
"""Field of view that a whole brain needs along every axis."""
Sidecar = Callable[[Path], Mapping[str, Any]]
_POINTER_BYTES = 32768
_DERIVED = ("space", "desc", "label", "res", "den", "chunk", "split")
_FOLLOW = ("acq", "rec")
_ENTITY = re.compile(r"([a-z]+)-(.*)", re.DOTALL)
_NO_AGENT = ("", "none", "no", "n/a", "na", "nan", "null", "false", "0", "0.0", "unknown")
_MOTION = re.compile(r"motion|moving|movement")
_STILL = re.compile(r"no.?mot|without|free|(?<!un)(?<!no)(?<!no[nt])corr|moco|still|rest|none")
_BODY_PARTS = ("BodyPart", "BodyPartExamined", "BodyPartDetails")
_HEAD = re.compile(r"brain|head|skull|cereb|crani")
_NOT_HEAD = re.compile(
    r"spine|spinal|cord|neck|cervical|thora(?:x|cic)|chest|lumbar|sacr(?:um|al)|vertebra"
    r"|abdom(?:en|inal)|pelvi[sc]"
)
_EMPTY, _NOT_FETCHED = "is empty", "is not fetched"
_FEW_SLICES = "too few slices"


@dataclass(frozen=True, slots=True)
class Choice:
    """The image chosen for one contrast, and why."""

    image: Path | None  # None if there is no image or the choice cannot be made
    missing: Path | None = None  # could have been chosen, but its content is not on this machine
    notes: tuple[str, ...] = ()
    problem: str = ""  # why the chosen image will fail; empty if nothing is known


@dataclass(frozen=True, slots=True)
class Candidate:
    """Properties of an image that are known before any voxel is read."""

    path: Path
    # field of view and voxel size (x, y, z); empty if unreadable
    extent_mm: tuple[float, ...] = ()
    edges_mm: tuple[float, ...] = ()
    problem: str = ""  # a phrase that follows the file name
    enhanced: bool = False  # with contrast agent
    moving: bool = False  # with deliberate motion
    partial: str = ""  # why it cannot show a whole brain, if its field of view does not say so

    @property
    def covers_brain(self) -> bool:
        """Whether the image can show a whole brain, as far as header and sidecar say."""
        return not self.partial and min(self.extent_mm, default=0.0) >= MIN_EXTENT_MM

    @property
    def may_cover_brain(self) -> bool:
        """Whether the image covers a whole brain or its header cannot be read."""
        return self.covers_brain or not (self.partial or self.extent_mm)

    @property
    def coverage(self) -> str:
        """Why the image does not cover a whole brain."""
        return self.partial or f"covers only {min(self.extent_mm, default=0.0):.0f} mm"

    @property
    def described(self) -> str:
        """File name and voxel size."""
        if self.edges_mm:
            return f"{self.path.name} ({math.prod(self.edges_mm):.3g} mm³ per voxel)"
        return self.path.name


def misnamed(image: Path, participant: str, session: str | None) -> str:
    """Return a phrase why a file name is not a complete BIDS name of a visit; empty if it is."""
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
    """Choose one of the images of a contrast at one visit by :func:`_criteria` and its checks."""
    usable = [path for path in images if name_entities(path.name)[0].get("part", "mag") == "mag"]
    if not usable:
        return Choice(None)
    metadata = {path: sidecar(path) for path in usable}
    # an image of another part of the body is needed only if there is no other image
    heads = [path for path in usable if not _other_body_part(metadata[path])] or usable
    least = min(map(_name_rank, heads))
    best = [path for path in sorted(heads) if _name_rank(path) == least]
    missing = next((path for path in best if not is_fetched(path)), None)
    if missing:
        return Choice(None, missing)
    candidates = (examine(path, metadata[path]) for path in usable)
    ranked = sorted(candidates, key=lambda candidate: _rank(candidate, flair))
    others = {path: "not a magnitude image" for path in sorted(images) if path not in usable}
    return _choose(contrast, ranked, flair, others)


def _choose(
    contrast: str,
    ranked: Sequence[Candidate],
    flair: Mapping[str, str] | None,
    others: Mapping[Path, str],
) -> Choice:
    """Choose one of the ranked images; ``others`` are images of no use, with reasons."""
    chosen, faults = _first_usable(ranked)
    needed = [candidate for candidate in ranked if not candidate.partial] or ranked
    unfetched = next(
        (candidate.path for candidate in needed if candidate.problem == _NOT_FETCHED), None
    )
    if unfetched and (chosen.path in faults or not chosen.covers_brain):
        return Choice(None, unfetched)
    # no partial image replaces a damaged one: the FLAIR has a problem, others are left out
    damaged = _damaged_brain(ranked, chosen, faults)
    if damaged and contrast != CONTRASTS[0] and not _all_damaged(ranked, faults):
        return Choice(None, notes=(_left_out(contrast, damaged, ranked, faults),))
    chosen = damaged or chosen
    reasons = dict(others) | {
        candidate.path: _rejection_reason(candidate, chosen, faults, flair)
        for candidate in ranked
        if candidate != chosen
    }
    ending = _ending(contrast, chosen, ranked, faults)
    fault = faults.get(chosen.path, "")
    problem = f"{chosen.path.name} {fault}" + (f"; {ending}" if reasons and ending else "")
    notes = (*_note(contrast, chosen, reasons, ending), *_remarks(contrast, chosen))
    return Choice(chosen.path, notes=notes, problem=problem if fault else "")


def _damaged_brain(
    ranked: Sequence[Candidate], chosen: Candidate, faults: Mapping[Path, str]
) -> Candidate | None:
    """Return the best damaged image if only images of parts of the brain could replace it."""
    whole = [candidate for candidate in ranked if candidate.may_cover_brain]
    if len(whole) == len(ranked):
        return None
    if chosen.path in faults:
        return whole[0] if whole else chosen
    return whole[0] if whole and not chosen.covers_brain else None


def _all_damaged(ranked: Sequence[Candidate], faults: Mapping[Path, str]) -> bool:
    """Return whether all images are damaged; localizers and unfetched images are not."""
    return all(
        candidate.path in faults
        and candidate.partial != _FEW_SLICES
        and candidate.problem != _NOT_FETCHED
        for candidate in ranked
    )


def _left_out(
    contrast: str, damaged: Candidate, ranked: Sequence[Candidate], faults: Mapping[Path, str]
) -> str:
    """Return the note on a contrast without a usable image."""
    others = f", and no other {contrast} covers a whole brain" if len(ranked) > 1 else ""
    return f"{contrast} is not used: {damaged.path.name} {faults[damaged.path]}{others}"


def _ending(
    contrast: str, chosen: Candidate, ranked: Sequence[Candidate], faults: Mapping[Path, str]
) -> str:
    """Say what is wrong with the chosen image and all others; empty if nothing is."""
    if chosen.path not in faults:
        return "" if chosen.covers_brain else "none covers a whole brain"
    if all(candidate.path in faults for candidate in ranked):
        return "none passes its checks"
    return f"no other {contrast} covers a whole brain"


def examine(path: Path, metadata: Mapping[str, Any] | None = None) -> Candidate:
    """Examine the name, the sidecar and the header of an image."""
    entities, _ = name_entities(path.name)
    sidecar = metadata or {}
    candidate = Candidate(
        path,
        enhanced=is_enhanced(entities, sidecar),
        moving=shows_motion(entities),
        partial=_other_body_part(sidecar),
    )
    if not is_fetched(path):
        return replace(candidate, problem=_NOT_FETCHED)
    if _is_empty(path):
        return replace(candidate, problem=_EMPTY)
    try:
        image_header = check_header(path)
    except FewSlicesError as error:
        return replace(candidate, problem=_fault(error, path), partial=_FEW_SLICES)
    except (MssegError, OSError) as error:
        return replace(candidate, problem=_fault(error, path))
    extent = tuple(
        n * edge for n, edge in zip(image_header.shape, image_header.spacing, strict=True)
    )
    return replace(candidate, extent_mm=extent, edges_mm=image_header.spacing)


def is_enhanced(entities: Mapping[str, str], metadata: Mapping[str, Any]) -> bool:
    """Return whether the name or the sidecar reports a contrast agent."""
    agent = metadata.get("ContrastBolusIngredient")
    agents = [entities.get("ce"), *(agent if isinstance(agent, list) else [agent])]
    return any(
        str(value).strip().casefold() not in _NO_AGENT for value in agents if value is not None
    )


def shows_motion(entities: Mapping[str, str]) -> bool:
    """Return whether the name says that the participant moved on purpose."""
    task, *labels = (entities.get(name, "").casefold() for name in ("task", *_FOLLOW))
    if task and not _STILL.search(task):
        return True
    return any(_MOTION.search(label) and not _STILL.search(label) for label in labels)


def _other_body_part(metadata: Mapping[str, Any]) -> str:
    """Return a phrase if the sidecar names a part of the body and not the head."""
    text = " ".join(str(metadata.get(key, "")) for key in _BODY_PARTS).casefold()
    found = None if _HEAD.search(text) else _NOT_HEAD.search(text)
    return f"body part: {found[0]}" if found else ""


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
        (not candidate.covers_brain, candidate.coverage),
        ((bool(candidate.problem), not candidate.may_cover_brain), "unreadable"),
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
    """Find the first image that passes its checks, and the known faults."""
    faults = {candidate.path: candidate.problem for candidate in ranked if candidate.problem}
    # the voxels of a single image are not read: its visit reports their errors
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
    if chosen.may_cover_brain and not candidate.may_cover_brain:
        return candidate.coverage
    if candidate.problem:
        phrases = {_EMPTY: "empty", _NOT_FETCHED: "not fetched"}
        return phrases.get(candidate.problem, "unreadable")
    if candidate.path in faults:
        return f"fails its checks: {faults[candidate.path]}"
    pairs = zip(_criteria(candidate, flair), _criteria(chosen, flair), strict=True)
    return next(phrase for (value, phrase), (better, _) in pairs if value != better)


def _note(
    contrast: str, chosen: Candidate, reasons: Mapping[Path, str], ending: str
) -> tuple[str, ...]:
    """Explain the choice among several images, or that a single one is partial."""
    if not reasons:
        partial = bool(chosen.extent_mm) and not chosen.covers_brain
        note = f"{chosen.path.name} does not cover a whole brain ({chosen.coverage})"
        return (note,) if partial else ()
    rejected = ", ".join(f"{path.name} ({reason})" for path, reason in reasons.items())
    note = (
        f"{len(reasons) + 1} {contrast} images: {chosen.described} is used, {rejected} "
        f"{'is' if len(reasons) == 1 else 'are'} not"
    )
    return (f"{note}; {ending}" if ending else note,)


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
    """Return whether a file is here, not a broken link or a key file of DataLad and git-annex."""
    try:
        status = path.stat()
        if status.st_size > _POINTER_BYTES or not stat.S_ISREG(status.st_mode):
            return True
        with path.open("rb") as stream:
            return not stream.read(15).startswith(b"/annex/objects/")
    except OSError:
        return not path.is_symlink() and path.exists()
