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
from bids_msseg.bids.index import AnatFolder, may_read
from bids_msseg.bids.inheritance import SidecarReader
from bids_msseg.bids.visit import CONTRASTS, Skipped, Visit, name_entities, visit_key

_MASK_HINT = (
    "name it sub-<label>[_ses-<label>]_space-FLAIR_label-L_mask.nii.gz in a derivative dataset, "
    "or use a pattern with {subject}, and with {session} if the visit has a session"
)


@dataclass(frozen=True, slots=True)
class VisitBuilder:
    """Builder of visits from the images of a folder, or of reasons why there is none."""

    bids_dir: Path
    images: DatasetImages
    derivatives: Mapping[str, Path]
    sidecars: SidecarReader
    ignored_contrasts: Sequence[str]
    lesion_masks: Mapping[str, Path] = field(default_factory=dict)
    exclude_masks: Mapping[str, Path] = field(default_factory=dict)

    def build(self, folder: AnatFolder) -> Visit | Skipped:
        """Choose the images of a folder; return the visit, or why there is none."""
        visit = folder.participant, folder.session
        images, wrong_names = self._candidates(visit)
        chosen: dict[str, Path] = {}
        misnamed_images = list(chain(*wrong_names.values()))
        notes = [f"not used: {listing(misnamed_images, '; ')}"] if misnamed_images else []
        notes += [
            f"{contrast} is not used, because of --ignore"
            for contrast in self.ignored_contrasts
            if images[contrast]
        ]
        problems: list[str] = []
        for contrast in [name for name in CONTRASTS if name not in self.ignored_contrasts]:
            entities = _name_entities_of(chosen["FLAIR"]) if chosen else None
            choice = choose_image(contrast, images[contrast], entities, sidecar=self._sidecar)
            if choice.missing:
                return self._not_fetched(visit, choice.missing)
            if choice.image is None and contrast == "FLAIR":
                return self._no_flair(folder, wrong_names[contrast])
            notes += choice.notes
            if choice.image is None:
                continue
            if not _may_open(choice.image):
                return self._cannot_open(visit, choice.image)
            chosen[contrast] = choice.image
            problems += [choice.problem] if choice.problem else []
        brain_mask = find_brain_mask(chosen["FLAIR"], *visit, self.derivatives)
        lesion_mask = FoundMask()
        if self.lesion_masks:
            lesion_mask = find_lesion_mask(chosen["FLAIR"], *visit, self.lesion_masks)
        exclude_masks = find_exclude_masks(chosen["FLAIR"], *visit, self.exclude_masks)
        masks = (brain_mask, lesion_mask, *exclude_masks)
        missing = next((mask.missing for mask in masks if mask.missing), None)
        if missing:
            return self._not_fetched(visit, missing)
        if self.lesion_masks and lesion_mask.mask is None:
            return Skipped(*visit, lesion_mask.note, _MASK_HINT)
        problems += _off_grid([lesion_mask], chosen["FLAIR"])
        problems += _off_grid(exclude_masks, chosen["FLAIR"], allow_drawn=True)
        metadata, read_notes = self._metadata(chosen)
        return Visit(
            *visit,
            chosen["FLAIR"],
            chosen.get("T1w"),
            chosen.get("T2w"),
            _name_entities_of(chosen["FLAIR"]),
            brain_mask.mask,
            metadata,
            (*notes, *(mask.note for mask in masks if mask.note), *read_notes),
            "; ".join(problems),
            lesion_mask.mask,
            tuple(mask.mask for mask in exclude_masks if mask.mask),
        )

    def _candidates(self, visit: VisitId) -> tuple[dict[str, list[Path]], dict[str, list[str]]]:
        """List the images of this visit by role, and notes on misnamed ones."""
        images = self.images.of(visit)
        problems = {path: misnamed(path, *visit) for path in chain(*images.values())}
        usable = {
            contrast: [path for path in paths if not problems[path]]
            for contrast, paths in images.items()
        }
        wrong_names = {
            contrast: [f"{path.name} {problems[path]}" for path in paths if problems[path]]
            for contrast, paths in images.items()
        }
        return usable, wrong_names

    def _sidecar(self, image: Path) -> Mapping[str, Any]:
        return self.sidecars.read(image)[0]

    def _metadata(self, used: Mapping[str, Path]) -> tuple[dict[str, Any], tuple[str, ...]]:
        read = {contrast: self.sidecars.read(path) for contrast, path in used.items()}
        metadata = {contrast: content for contrast, (content, _) in read.items()}
        return metadata, tuple(dict.fromkeys(note for _, notes in read.values() for note in notes))

    def _not_fetched(self, visit: VisitId, path: Path) -> Skipped:
        name = self._name(path) if path.is_relative_to(self.bids_dir) else str(path)
        reason = f"{name} is not fetched: its content is not on this machine"
        return Skipped(*visit, reason, f"datalad get {name}")

    def _cannot_open(self, visit: VisitId, path: Path) -> Skipped:
        name = self._name(path)
        if path.is_file():
            return Skipped(*visit, f"no permission to read {name}", "ask the owner for permission")
        return Skipped(*visit, f"{name} is not a regular file", "replace it with a NIfTI file")

    def _no_flair(self, folder: AnatFolder, wrong_names: Sequence[str]) -> Skipped:
        visit = folder.participant, folder.session
        if wrong_names:
            hint = "rename it with labels of letters and digits, or move it to the right folder"
            return Skipped(*visit, f"{wrong_names[0]}: it is not used", hint)
        if visit in self.images.ignored:
            names = listing([path.name for path in self.images.ignored[visit]])
            return Skipped(*visit, f"{FILE} excludes its FLAIR ({names})", f"correct {FILE}")
        if visit in self.images.filtered_out:
            hint = "; ".join(("relax the filter", *self.images.unmatched["FLAIR"]))
            return Skipped(*visit, "the filter file excludes all its FLAIR images", hint)
        top = folder.path.parent
        for path in (top, folder.path):
            if path.is_dir() and not may_read(path):
                reason = f"no permission to read the folder {self._name(path)}"
                return Skipped(*visit, reason, "ask the owner for permission")
        if not any(top.iterdir()):
            name = self._name(top)
            hint = f"if this is a DataLad dataset: datalad get {name}"
            return Skipped(*visit, f"the folder {name} is empty", hint)
        image_names = sorted(path.name for path in folder.path.glob("*.nii*"))
        found = f"found: {listing(image_names)}" if image_names else "no images in its anat folder"
        hint = f"add a FLAIR, or leave {visit_key(*visit)} out"
        return Skipped(*visit, f"no FLAIR ({found})", hint)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.bids_dir).as_posix()


def _off_grid(masks: Sequence[FoundMask], flair: Path, *, allow_drawn: bool = False) -> list[str]:
    """Report masks that will be rejected; pipes are not opened, because they may block."""
    return [
        f"{mask.name} is not on the grid of the FLAIR"
        for mask in (found.mask for found in masks if found.mask)
        if not (mask.is_file() and same_grid(mask, flair, allow_drawn=allow_drawn))
    ]


def _may_open(image: Path) -> bool:
    """Return whether an image can be opened; folders are reported when they are read."""
    return image.is_dir() or (image.is_file() and may_read(image))


def _name_entities_of(image: Path) -> dict[str, str]:
    entities, _ = name_entities(image.name)
    return {name: value for name, value in entities.items() if name not in ("sub", "ses")}
