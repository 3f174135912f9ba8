"""Selection of the masks to compare, and of the other files of their visits."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bids_msseg.bids.visit import PREFIX_ENTITIES, name_entities, visit_key, visit_order
from bids_msseg.errors import DataError, NoInputError
from bids_msseg.evaluation.labels import read_sites
from bids_msseg.evaluation.raters import LABELS, complete_names
from bids_msseg.imaging.header import check_header
from bids_msseg.imaging.volume import is_same_grid

LOGGER = logging.getLogger("bids_msseg")
ONE_SITE: Final = "one site"


@dataclass(frozen=True, slots=True)
class Choice:
    """Folder of a BIDS derivative dataset and the entities of the masks to use."""

    folder: Path
    desc: str | None = None  # None: masks without desc-
    label: str | None = None  # None: L or lesion, or without label- where desc is given
    space: str = "FLAIR"  # or without space-

    def takes(self, name: str) -> bool:
        """Return whether a file name matches this choice."""
        entities, suffix = name_entities(name)
        labels = LABELS if self.label is None else (self.label,)
        label = entities.get("label")
        right_label = label in labels or (
            label is None and self.label is None and self.desc is not None
        )
        return (
            suffix == "mask"
            and right_label
            and entities.get("desc") == self.desc
            and entities.get("space", self.space) == self.space
        )


@dataclass(frozen=True, slots=True)
class Places:
    """Further sources: raw dataset, region maps and sites of the participants."""

    bids_dir: Path | None = None  # with the FLAIR and participants.tsv
    regions: Path | None = None  # dataset with region maps or transforms to the template
    site: str | None = None  # of all participants
    site_column: str = "site"


@dataclass(frozen=True, slots=True)
class Pair:
    """Both masks of one visit, and the files that belong to them."""

    key: str
    participant: str  # with its prefix, as in sub-01
    session: str  # with its prefix, or empty
    site: str
    auto: Path
    manual: Path
    probability: Path | None = None  # of the automatic mask
    brain: Path | None = None
    regions: Path | None = None
    transform: Path | None = None  # affine from the FLAIR to the template
    flair: Path | None = None
    same_grid: bool = True


@dataclass(frozen=True, slots=True)
class Pairing:
    """Visits with both masks in natural order, and visits with only one mask."""

    pairs: tuple[Pair, ...]
    without_auto: Mapping[str, str]  # site of each such visit
    without_manual: Mapping[str, str]


def find_pairs(auto: Choice, manual: Choice, places: Places) -> Pairing:
    """Find both masks of every visit; NoInputError if no visit has both, or DataError."""
    masks = [_masks(choice) for choice in (auto, manual)]
    places = replace(places, bids_dir=places.bids_dir or _raw_dataset(manual, auto))
    sites = _Sites(places, [manual.folder, auto.folder])
    both = sorted(masks[0].keys() & masks[1].keys(), key=lambda visit: visit_order(*visit))
    if not both:
        raise NoInputError(
            f"no visit has a mask both in {auto.folder} and in {manual.folder}",
            hint="name masks sub-<label>[_ses-<label>]_space-FLAIR_label-L_mask.nii.gz; "
            + _selectable_values(auto, manual),
        )
    pairs = [
        _pair(visit, _matching(masks[0][visit], masks[1][visit]), (auto, manual), places, sites)
        for visit in both
    ]
    unpaired = [
        {
            visit_key(*visit): sites.of(visit[0])
            for visit in masks[present].keys() - masks[missing].keys()
        }
        for present, missing in ((1, 0), (0, 1))
    ]
    for names, kind in zip(unpaired, ("automatic", "manual"), strict=True):
        if names:
            LOGGER.warning("no %s mask found, skipped: %s", kind, ", ".join(sorted(names)))
    return Pairing(tuple(pairs), unpaired[0], unpaired[1])


Visit = tuple[str, str | None]


def _masks(choice: Choice) -> dict[Visit, list[Path]]:
    if not choice.folder.is_dir():
        raise NoInputError(
            f"the folder {choice.folder} does not exist",
            hint="pass a BIDS derivative dataset with masks",
        )
    masks: dict[Visit, list[Path]] = {}
    taken = [path for path in _images(choice.folder) if choice.takes(path.name)]
    for path in complete_names(choice.folder, taken):
        entities, _ = name_entities(path.name)
        masks.setdefault((entities["sub"], entities.get("ses")), []).append(path)
    return masks


def _images(folder: Path) -> list[Path]:
    return sorted(
        path for start in sorted(folder.glob("sub-*")) for path in start.rglob("*_mask.nii*")
    )


def _selectable_values(*choices: Choice) -> str:
    """Describe the ``space-`` and ``desc-`` values that could be selected, for a hint."""
    spaces = other_spaces(*choices)
    hints = [spaces] if spaces else []
    for choice, option in zip(choices, ("--auto-desc", "--manual-desc"), strict=True):
        entities = (name_entities(path.name)[0] for path in _images(choice.folder))
        descriptions = {labels["desc"] for labels in entities if "desc" in labels} - {"brain"}
        if descriptions:
            hints.append(f"possible values of {option}: {', '.join(sorted(descriptions))}")
    return "; ".join(hints) or "select another label with --auto-label and --manual-label"


def other_spaces(auto: Choice, manual: Choice) -> str:
    """Describe which other ``space-`` values would match, by option; empty if none."""
    hints = []
    for choice, option in ((auto, "--auto-space"), (manual, "--manual-space")):
        spaces = set()
        for path in _images(choice.folder):
            space = name_entities(path.name)[0].get("space", "")
            if replace(choice, space=space).takes(path.name):
                spaces.add(space)
        spaces -= {"", choice.space}
        if spaces:
            hints.append(f"possible values of {option}: {', '.join(sorted(spaces))}")
    return "; ".join(hints)


def _matching(auto: Sequence[Path], manual: Sequence[Path]) -> tuple[Path, Path]:
    """Choose the two masks of a visit that belong together; DataError if this is ambiguous."""
    if len(auto) == len(manual) == 1:
        return auto[0], manual[0]
    # exactly one combination of prefix entities (such as run-) must occur on both sides
    tags = [{_tag(path): path for path in paths} for paths in (auto, manual)]
    shared = tags[0].keys() & tags[1].keys()
    if len(shared) != 1 or len(tags[0]) != len(auto) or len(tags[1]) != len(manual):
        several = auto if len(auto) > 1 else manual
        raise DataError(
            f"several masks of one visit: {', '.join(path.name for path in several)}",
            hint="keep one of them, or select one with --auto-desc, --manual-desc, --auto-label "
            "or --manual-label",
        )
    tag = shared.pop()
    return tags[0][tag], tags[1][tag]


def _tag(path: Path) -> tuple[str | None, ...]:
    entities, _ = name_entities(path.name)
    return tuple(entities.get(name) for name in PREFIX_ENTITIES)


class _Sites:
    """Sites of the participants, from the first table that contains any."""

    def __init__(self, places: Places, folders: Sequence[Path]) -> None:
        self._common_site = places.site
        tables = [places.bids_dir, *folders] if places.bids_dir else folders
        site_tables = (read_sites(Path(folder), places.site_column) for folder in tables)
        self._by_participant = next((sites for sites in site_tables if sites), {})

    def of(self, participant: str) -> str:
        return self._common_site or self._by_participant.get(participant, ONE_SITE)


def _raw_dataset(*choices: Choice) -> Path | None:
    """Find the dataset whose ``derivatives`` contain one of the folders; None without one."""
    for choice in choices:
        folder = choice.folder.resolve()
        if folder.parent.name == "derivatives":
            return folder.parent.parent
    return None


def _pair(
    visit: Visit,
    masks: tuple[Path, Path],
    choices: tuple[Choice, Choice],
    places: Places,
    sites: _Sites,
) -> Pair:
    participant, session = visit
    auto, manual = masks
    folders = [_below(choice.folder, visit) for choice in choices]
    region_folder = _below(places.regions or choices[0].folder, visit)
    key = visit_key(participant, session)
    probability = auto.with_name(auto.name.replace("_mask.nii", "_probseg.nii"))
    grids = [check_header(path) for path in masks]
    return Pair(
        key,
        f"sub-{participant}",
        "" if session is None else f"ses-{session}",
        sites.of(participant),
        auto,
        manual,
        probability if probability.is_file() else None,
        _first([*folders, region_folder], f"{key}_*desc-brain_mask.nii*"),
        _first([region_folder], f"{key}_*seg-regions_dseg.nii*"),
        _first([region_folder], f"{key}_*from-FLAIR_to-MNI152NLin2009aSym_*xfm.txt"),
        _flair(key, visit, folders[0], places.bids_dir),
        is_same_grid(grids[0].shape, grids[0].affine, grids[1].shape, grids[1].affine),
    )


def _below(folder: Path, visit: Visit) -> Path:
    participant, session = visit
    below = folder / f"sub-{participant}"
    return (below / f"ses-{session}" if session else below) / "anat"


def _first(folders: Sequence[Path], pattern: str) -> Path | None:
    """Return the first matching file in FLAIR space; None if there is none."""
    for folder in folders:
        for path in sorted(folder.glob(pattern)):
            if name_entities(path.name)[0].get("space", "FLAIR") == "FLAIR":
                return path
    return None


def _flair(key: str, visit: Visit, auto: Path, bids_dir: Path | None) -> Path | None:
    raw = [] if bids_dir is None else [_below(bids_dir, visit)]
    raw_flair = _first(raw, f"{key}*_FLAIR.nii*")
    return raw_flair or _first([auto], f"{key}_*desc-preproc_FLAIR.nii*")
