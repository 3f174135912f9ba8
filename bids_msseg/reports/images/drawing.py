"""Figures of a visit on disk, from which a page can be written again at any time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from bids_msseg.bids.derivatives import OUTPUTS, preprocessed
from bids_msseg.bids.paths import figure_path
from bids_msseg.bids.visit import CONTRASTS, Visit
from bids_msseg.errors import convert_os_error
from bids_msseg.imaging.volume import Volume
from bids_msseg.io.atomic import write_atomic
from bids_msseg.reports import page
from bids_msseg.reports.images import canvas
from bids_msseg.reports.images.figures import brain_mask_mosaic, lesion_mosaic, registration_mosaic
from bids_msseg.reports.images.mosaic import Mosaic

KINDS = ("lesions", "brain", "registration")
"""Figures in the order in which a page shows them; keys of frames start with these words."""
_FIRST = ("lesions", "brain", "brainAnatomy", "registrationT1w", "registrationT2w")
_LAST = ("lesionsPlain", "brainPlain", "registrationFLAIR")


@dataclass(frozen=True, slots=True)
class StoredFrame:
    """A stored picture with its ``desc-`` label, title, description and size in pixels."""

    key: str
    title: str
    description: str
    png: bytes
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class FigureView:
    """A figure as the template shows it, with width and height of every frame in pixels."""

    kind: str  # one of KINDS, or changes
    frames: tuple[tuple[str, Markup], ...]  # title, data URI
    caption: str
    width: int
    height: int


def draw_visit(
    out_dir: Path,
    visit: Visit,
    *,
    flair: Volume,
    brain: Volume,
    lesions: Volume,
    rejected: Volume,
    anatomy: Volume | None = None,
    moving: Mapping[str, Volume] | None = None,
    doubtful: Collection[str] = (),  # names of ``moving`` that failed the alignment check
) -> tuple[Path, ...]:
    """Draw and write every figure of a visit; remove those of an earlier run.

    Raises DataError if the brain mask is empty or grids differ, CannotCreateError if not written.
    """
    mosaics = [
        lesion_mosaic(flair, lesions, rejected, brain),
        brain_mask_mosaic(flair, brain, anatomy),
    ]
    if moving:
        mosaics.append(registration_mosaic(flair, moving, brain, doubtful=doubtful))
    return write_figures(out_dir, visit, mosaics)


def image_paths(out_dir: Path, visit: Visit) -> dict[str, Path]:
    """Return the paths, also of missing files, of the images for a visit's figures."""
    images = {
        "brain": OUTPUTS["brain"],
        **{contrast: preprocessed(contrast) for contrast in CONTRASTS},
        "mask": OUTPUTS["mask"],
        "lesions": OUTPUTS["labels"],
        "rejected": OUTPUTS["rejected"],
        "probability": OUTPUTS["probseg"],
    }
    return {name: output.path(out_dir, visit, ".nii.gz") for name, output in images.items()}


def write_figures(out_dir: Path, visit: Visit, mosaics: Iterable[Mosaic]) -> tuple[Path, ...]:
    """Write mosaic frames as ``<prefix>_desc-<key>_FLAIR.png``; remove the visit's other ones."""
    frames = [frame for mosaic in mosaics for frame in mosaic.frames]
    paths = [figure_path(out_dir, visit, frame.key, extension=".png") for frame in frames]
    hint = "make the output folder writable and leave enough free space"
    with convert_os_error(f"cannot write the figures of {visit.key}", hint=hint):
        for path, frame in zip(paths, frames, strict=True):
            write_atomic(path, frame.png)
        for old in set(_stored(out_dir, visit).values()) - set(paths):
            old.unlink(missing_ok=True)
    return tuple(paths)


def read_figures(out_dir: Path, visit: Visit) -> dict[str, tuple[StoredFrame, ...]]:
    """Read the intact figures of a visit, by kind of :data:`KINDS`; plain frames come last."""
    stored = _stored(out_dir, visit).items()
    frames = [frame for key, path in stored if (frame := read_frame(key, path))]
    figures = {
        kind: tuple(sorted((frame for frame in frames if frame.key.startswith(kind)), key=_place))
        for kind in KINDS
    }
    return {kind: kind_frames for kind, kind_frames in figures.items() if kind_frames}


def _stored(out_dir: Path, visit: Visit) -> dict[str, Path]:
    """Return the stored figures of a visit by their ``desc-`` label."""
    model = figure_path(out_dir, visit, "KEY", extension=".png")
    start, _, end = model.name.rpartition("KEY")
    files = {
        path.name.removeprefix(start).removesuffix(end): path
        for path in (sorted(model.parent.iterdir()) if model.parent.is_dir() else ())
        if path.name.startswith(start) and path.name.endswith(end)
    }
    return {key: path for key, path in files.items() if key.startswith(KINDS)}


def read_frame(key: str, path: Path) -> StoredFrame | None:
    """Read one picture; None if it is missing or broken."""
    try:
        png = path.read_bytes()
        title, description, (width, height) = canvas.describe(png)
    except (OSError, SyntaxError):  # Pillow calls some broken files a syntax error
        return None
    return StoredFrame(key, title, description, png, width, height)


def view_figure(kind: str, frames: Sequence[StoredFrame]) -> FigureView:
    """Prepare frames of equal size for a page; the first description is the caption."""
    shown = tuple((frame.title or frame.key, page.data_uri(frame.png)) for frame in frames)
    first = frames[0]
    return FigureView(kind, shown, first.description, first.width, first.height)


def _place(frame: StoredFrame) -> tuple[int, str]:
    if frame.key in _FIRST:
        return _FIRST.index(frame.key), frame.key
    return len(_FIRST) + (frame.key in _LAST), frame.key
