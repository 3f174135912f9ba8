"""Construction of a visit from the images of one folder, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from bids_msseg.bids.given_masks import (
    FoundMask,
    find_brain_mask,
    find_exclude_masks,
    find_lesion_mask,
    same_grid,
)
from bids_msseg.bids.ignore import FILE
from bids_msseg.bids.image_selection import choose_image, misnamed
from bids_msseg.bids.images import DatasetImages, VisitId, listing
from bids_msseg.bids.index import (
    AnatFolder,
    may_read,
)
from bids_msseg.bids.inheritance import SidecarReader
from bids_msseg.bids.visit import (
    CONTRASTS,
    Skipped,
    Visit,
    name_entities,
    visit_key,
)

_MASK_HINT = (
    "name it sub-<label>[_ses-<label>]_space-FLAIR_label-L_mask.nii.gz in a derivative dataset, "
    "or use a pattern with {subject}, and with {session} if the visit has a session"
)


@dataclass(frozen=True, slots=True)
class VisitMaker:
    """Builder of visits from the images of a folder, or of reasons why there is none."""

    bids_dir: Path
    images: DatasetImages
    derivatives: Mapping[str, Path]
    sidecars: SidecarReader
    unwanted: Sequence[str]
    lesion_masks: Mapping[str, Path] = field(default_factory=dict)
    exclude_masks: Mapping[str, Path] = field(default_factory=dict)

    def make(self, folder: AnatFolder) -> Visit | Skipped:
        """Choose the images of a folder; return the visit, or why there is none."""
        participant, session = visit = folder.participant, folder.session
        mine, odd = self._candidates(visit)
        used: dict[str, Path] = {}
        wrong = list(chain(*odd.values()))
        notes = [f"not used: {listing(wrong, '; ')}"] if wrong else []
        notes += [f"{one} is not used, because of --ignore" for one in self.unwanted if mine[one]]
        problems: list[str] = []
        for contrast in (one for one in CONTRASTS if one not in self.unwanted):
            entities = _name_entities_of(used["FLAIR"]) if used else None
            choice = choose_image(contrast, mine[contrast], entities, sidecar=self._sidecar)
            if choice.missing:
                return self._not_fetched(visit, choice.missing)
            if choice.image is None and contrast == "FLAIR":
                return self._no_flair(folder, odd[contrast])
            if choice.image is None:
                continue
            if not _may_open(choice.image):
                return self._closed(visit, choice.image)
            used[contrast] = choice.image
            notes += choice.notes
            problems += [choice.problem] if choice.problem else []
        found = find_brain_mask(used["FLAIR"], participant, session, self.derivatives)
        given = self._given_mask(visit, used["FLAIR"])
        excluded = find_exclude_masks(used["FLAIR"], *visit, self.exclude_masks)
        masks = (found, given, *excluded)
        missing = next((one.missing for one in masks if one.missing), None)
        if missing:
            return self._not_fetched(visit, missing)
        if self.lesion_masks and given.mask is None:
            return Skipped(*visit, given.note, _MASK_HINT)
        problems += _off_grid([given], used["FLAIR"])
        problems += _off_grid(excluded, used["FLAIR"], drawn=True)
        metadata, unread = self._metadata(used)
        return Visit(
            participant,
            session,
            used["FLAIR"],
            used.get("T1w"),
            used.get("T2w"),
            _name_entities_of(used["FLAIR"]),
            found.mask,
            metadata,
            (*notes, *(one.note for one in masks if one.note), *unread),
            "; ".join(problems),
            given.mask,
            tuple(one.mask for one in excluded if one.mask),
        )

    def _given_mask(self, visit: VisitId, flair: Path) -> FoundMask:
        if not self.lesion_masks:
            return FoundMask()
        return find_lesion_mask(flair, *visit, self.lesion_masks)

    def _candidates(self, visit: VisitId) -> tuple[dict[str, list[Path]], dict[str, list[str]]]:
        """List the images of this visit by role, and notes on misnamed ones."""
        images = self.images.of(visit)
        wrong = {path: misnamed(path, *visit) for path in chain(*images.values())}
        mine = {one: [path for path in paths if not wrong[path]] for one, paths in images.items()}
        odd = {
            one: [f"{path.name} {wrong[path]}" for path in paths if wrong[path]]
            for one, paths in images.items()
        }
        return mine, odd

    def _sidecar(self, image: Path) -> Mapping[str, Any]:
        return self.sidecars.read(image)[0]

    def _metadata(self, used: Mapping[str, Path]) -> tuple[dict[str, Any], tuple[str, ...]]:
        read = {contrast: self.sidecars.read(path) for contrast, path in used.items()}
        metadata = {contrast: content for contrast, (content, _) in read.items()}
        return metadata, tuple(dict.fromkeys(note for _, notes in read.values() for note in notes))

    def _not_fetched(self, visit: VisitId, path: Path) -> Skipped:
        inside = path.is_relative_to(self.bids_dir)
        name = path.relative_to(self.bids_dir).as_posix() if inside else str(path)
        reason = f"{name} is not fetched: its content is not on this machine"
        return Skipped(*visit, reason, f"datalad get {name}")

    def _closed(self, visit: VisitId, path: Path) -> Skipped:
        name = path.relative_to(self.bids_dir).as_posix()
        if path.is_file():
            return Skipped(*visit, f"no permission to read {name}", "ask the owner for permission")
        return Skipped(*visit, f"{name} is not a regular file", "replace it with a NIfTI file")

    def _no_flair(self, folder: AnatFolder, odd: Sequence[str]) -> Skipped:
        participant, session = visit = folder.participant, folder.session
        if odd:
            hint = "rename it with labels of letters and digits, or move it to the right folder"
            return Skipped(participant, session, f"{odd[0]}: it is not used", hint)
        if visit in self.images.ignored:
            names = listing([path.name for path in self.images.ignored[visit]])
            reason = f"{FILE} excludes its FLAIR ({names})"
            return Skipped(participant, session, reason, f"correct {FILE}")
        if visit in self.images.filtered_out:
            reason = "the filter file excludes all its FLAIR images"
            hint = "; ".join(("relax the filter", *self.images.unmatched["FLAIR"]))
            return Skipped(participant, session, reason, hint)
        top = folder.path.parent
        closed = next((path for path in (top, folder.path) if _is_closed(path)), None)
        if closed is not None:
            name = closed.relative_to(self.bids_dir).as_posix()
            reason = f"no permission to read the folder {name}"
            return Skipped(participant, session, reason, "ask the owner for permission")
        if not any(top.iterdir()):
            name = top.relative_to(self.bids_dir).as_posix()
            hint = f"if this is a DataLad dataset: datalad get {name}"
            return Skipped(participant, session, f"the folder {name} is empty", hint)
        found = _image_names(folder.path)
        what = f"found: {listing(found)}" if found else "no images in its anat folder"
        hint = f"add a FLAIR, or leave {visit_key(participant, session)} out"
        return Skipped(participant, session, f"no FLAIR ({what})", hint)


def _off_grid(found: Sequence[FoundMask], flair: Path, *, drawn: bool = False) -> list[str]:
    """Report masks that will be rejected; pipes are not opened, because they may block."""
    return [
        f"{mask.name} is not on the grid of the FLAIR"
        for mask in (one.mask for one in found if one.mask)
        if not (mask.is_file() and same_grid(mask, flair, drawn=drawn))
    ]


def _may_open(image: Path) -> bool:
    """Return whether an image can be opened; folders are reported when they are read."""
    return image.is_dir() or (image.is_file() and may_read(image))


def _is_closed(folder: Path) -> bool:
    return folder.is_dir() and not may_read(folder)


def _name_entities_of(image: Path) -> dict[str, str]:
    entities, _ = name_entities(image.name)
    return {name: value for name, value in entities.items() if name not in ("sub", "ses")}


def _image_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.nii*"))
