"""Output spaces and atlases as the user names them, and the space of each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from bids_msseg import readers

NATIVE_SPACES: Final = ("FLAIR", "T1w")
EMBEDDED_SPACE: Final = "MNI152NLin2009aSym"
"""The template that the package holds."""
EMBEDDED_ATLAS: Final = "sides"
"""Its regions, left and right."""
ATLAS_SPACE: Final = "MNI152NLin2009cAsym"
"""Template of an atlas of TemplateFlow for which none is named."""
FREESURFER: Final = "freesurfer"
"""Name under which ``--derivatives`` gives the folder of FreeSurfer's subjects."""
AtlasKind = Literal["embedded", "templateflow", "file", "freesurfer"]
_NATIVE: Final = {"anat": "T1w", "flair": "FLAIR", "t1w": "T1w"}
_OTHER_NATIVE: Final = ("t1", "t2", "t2w")
_LABEL: Final = "[A-Za-z0-9]+"
_FILE: Final = re.compile(
    rf"(?:({_LABEL})=)?(.+\.(?:nii(?:\.gz)?|mgz|mgh))(?::({_LABEL}))?",
)
_SEGMENTATION: Final = re.compile(r"aseg|wmparc|aparc(?:\.[A-Za-z0-9]+)?\+aseg")
_TEMPLATEFLOW: Final = re.compile(
    rf"({_LABEL})(?::({_LABEL}))?(?::desc-({_LABEL}))?(?::res-0*([1-9][0-9]*))?"
)


@dataclass(frozen=True, slots=True)
class OutputSpace:
    """A grid on which results are written."""

    name: str  # FLAIR, T1w, a TemplateFlow identifier or the label of a file
    resolution: int | None = None  # index of the template, as in res-1
    file: str = ""  # may contain {subject} and {session}
    world: str = "FLAIR"  # contrast with which the file is aligned: FLAIR or T1w

    @classmethod
    def parse(cls, text: str) -> OutputSpace:
        """Read ``NAME[:res-N]`` or ``[LABEL=]FILE[:FLAIR|T1w]``; ValueError for other forms."""
        if match := _FILE.fullmatch(text):
            return cls._of_file(*match.groups())
        match = re.fullmatch(rf"({_LABEL})(?::res-0*([1-9][0-9]*))?", text)
        if match is None:
            raise ValueError(
                "FLAIR, T1w, FILE.nii.gz, or a TemplateFlow name such as MNI152NLin2009aSym:res-1"
            )
        name, resolution = match.groups()
        native = _NATIVE.get(name.lower())
        if native and resolution:
            raise ValueError(f"{native} without :res-{resolution}, which only templates have")
        if name.lower() in _OTHER_NATIVE:
            raise ValueError("FLAIR, T1w, or a TemplateFlow name, not another native grid")
        return cls(native or name, int(resolution) if resolution else None)

    @classmethod
    def _of_file(cls, name: str | None, file: str, world: str | None) -> OutputSpace:
        path = readers.path(file)
        native = _NATIVE.get((world or "FLAIR").lower())
        if native is None or not path.name.endswith((".nii", ".nii.gz")):
            raise ValueError("FILE.nii.gz:T1w, or FILE.nii.gz if it is aligned with the FLAIR")
        label = name or _label(path.name.partition(".")[0].rpartition("_")[2])
        if not label or label.lower() in (*_NATIVE, *_OTHER_NATIVE):
            raise ValueError("LABEL=FILE.nii.gz, with a label that no other space has")
        return cls(label, None, str(path), native)

    @property
    def is_native(self) -> bool:
        """Whether it is the grid of the visit's FLAIR or T1w."""
        return self.name in NATIVE_SPACES

    @property
    def is_per_visit(self) -> bool:
        """Whether each visit has an image of its own."""
        return "{" in self.file

    @property
    def is_template(self) -> bool:
        """Whether it is a grid of TemplateFlow."""
        return not (self.is_native or self.file)

    def __str__(self) -> str:
        if self.file:
            return f"{self.name}={self.file}:{self.world}"
        return self.name if self.resolution is None else f"{self.name}:res-{self.resolution}"


@dataclass(frozen=True, slots=True)
class AtlasChoice:
    """A label image by whose regions the lesion load is divided."""

    name: str  # for tables: letters and digits
    kind: AtlasKind
    source: str  # path (may contain {subject}, {session}), atlas- or FreeSurfer segmentation
    space: str  # FLAIR, T1w or a template
    desc: str | None = None  # of TemplateFlow
    resolution: int = 1  # of TemplateFlow

    @classmethod
    def parse(cls, text: str) -> AtlasChoice:
        """Read an atlas as the user writes it; ValueError for other forms."""
        # sides, aparc+aseg, [NAME=]FILE[:SPACE] or ATLAS[:TEMPLATE][:desc-X][:res-N]
        if text == EMBEDDED_ATLAS:
            return cls(text, "embedded", text, EMBEDDED_SPACE)
        if _SEGMENTATION.fullmatch(text):
            return cls(_label(text), FREESURFER, text, "T1w")
        if match := _FILE.fullmatch(text):
            name, file, space = match.groups()
            path = readers.path(file)
            return cls(name or atlas_name(path), "file", str(path), _atlas_space(space, path.name))
        match = _TEMPLATEFLOW.fullmatch(text)
        if match is None:
            raise ValueError(
                "sides, aparc+aseg, FILE:SPACE, or a TemplateFlow name such as "
                "Schaefer2018:MNI152NLin2009cAsym:desc-100Parcels7Networks"
            )
        atlas, template, desc, resolution = match.groups()
        name = atlas + (desc or "")
        space = template or ATLAS_SPACE
        return cls(name, "templateflow", atlas, space, desc, int(resolution or 1))

    @property
    def is_per_visit(self) -> bool:
        """Whether each visit has an image of its own."""
        return self.kind == FREESURFER or "{" in self.source

    def __str__(self) -> str:
        if self.kind == "file":
            return f"{self.name}={self.source}:{self.space}"
        if self.kind != "templateflow":
            return self.source
        desc = f":desc-{self.desc}" if self.desc else ""
        grid = f":res-{self.resolution}" if self.resolution != 1 else ""
        return f"{self.source}:{self.space}{desc}{grid}"


def _atlas_space(label: str | None, file: str) -> str:
    """Find the space of a label image from the text after its path, or its name."""
    match = re.search(rf"(?:^|_)(?:tpl|space)-({_LABEL})_", file)
    space = label or (match[1] if match else "")
    native = _NATIVE.get(space.lower())
    if not space or (native is None and space.lower() in _OTHER_NATIVE):
        raise ValueError("FILE:SPACE, where SPACE is FLAIR, T1w or a TemplateFlow name")
    return native or space


def atlas_name(path: Path) -> str:
    """Name an atlas by its ``atlas-``, ``seg-`` or ``desc-``, else by its file name."""
    parts = path.name.partition(".")[0].split("_")
    entities = dict(part.split("-", 1) for part in parts if "-" in part)
    label = next((entities[key] for key in ("atlas", "seg", "desc") if key in entities), "")
    rest = "".join(part for part in parts if not part.startswith(("sub-", "ses-")))
    return _label(label or rest) or "atlas"


def _label(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "", text)


def fill_in(pattern: str, participant: str, session: str | None) -> Path | None:
    """Replace ``{subject}`` and ``{session}`` in a path; None if a needed session is missing."""
    if session is None and "{session}" in pattern:
        return None
    filled = pattern.replace("{subject}", participant)
    return Path(filled.replace("{session}", session or ""))
