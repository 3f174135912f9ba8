"""A visit's figures on disk: one PNG a frame, under ``sub-<label>/figures``.

They are drawn once, when the images are at hand, and say themselves what they show; pages only
collect them. So a page can be written again at any time, also after a crash.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from bids_msseg.bids.derivatives import OUTPUTS, preprocessed
from bids_msseg.bids.paths import figure_path
from bids_msseg.bids.visit import CONTRASTS, Visit
from bids_msseg.errors import CannotCreateError
from bids_msseg.imaging.volume import Volume
from bids_msseg.io.atomic import write_atomic
from bids_msseg.reports import canvas, page
from bids_msseg.reports.figures import brain_mask_mosaic, lesion_mosaic, registration_mosaic
from bids_msseg.reports.mosaic import Mosaic

KINDS = ("lesions", "brain", "registration")
"""Figures in the order in which a page shows them; keys of frames start with these words."""
_FIRST = ("lesions", "brain", "brainAnatomy", "registrationT1w", "registrationT2w")
_LAST = ("lesionsPlain", "brainPlain", "registrationFLAIR")


@dataclass(frozen=True, slots=True)
class StoredFrame:
    """A picture as it lies on disk.

    Attributes
    ----------
    key : str
        Its ``desc-`` label.
    title, description : str
        What it says of itself; empty where it says nothing.
    png : bytes
    width, height : int
        Pixels.
    """

    key: str
    title: str
    description: str
    png: bytes
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class FigureView:
    """A figure as the template shows it.

    Attributes
    ----------
    kind : str
        ``lesions``, ``brain``, ``registration`` or ``changes``.
    frames : tuple of (title, data URI)
    caption : str
    width, height : int
        Pixels of every frame.
    """

    kind: str
    frames: tuple[tuple[str, Markup], ...]
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
    doubtful: Collection[str] = (),
) -> tuple[Path, ...]:
    """Draw and write every figure of one visit; figures of an earlier run go.

    Parameters
    ----------
    out_dir : Path
        Top folder of the outputs.
    visit : Visit
        Names the files.
    flair : Volume
        Data shape (X, Y, Z); best before skull-stripping, so that the brain mask can be judged.
        What lies more than some millimetres outside the brain is never drawn.
    brain, lesions, rejected : Volume
        Masks on the same grid.
    anatomy : Volume, optional
        Classes of :class:`~bids_msseg.models.anatomy.Anatomy` on the same grid.
    moving : mapping of str to Volume, optional
        Images resampled onto that grid by the registrations: T1w, T2w, the template.
    doubtful : collection of str, optional
        Those of them that did not pass the check of their alignment.

    Returns
    -------
    tuple of Path

    Raises
    ------
    DataError
        If the brain mask is empty or a grid differs.
    CannotCreateError
        If the folder cannot be written.
    """
    mosaics = [
        lesion_mosaic(flair, lesions, rejected, brain),
        brain_mask_mosaic(flair, brain, anatomy),
    ]
    if moving:
        mosaics.append(registration_mosaic(flair, moving, brain, doubtful=doubtful))
    return write_figures(out_dir, visit, mosaics)


def image_paths(out_dir: Path, visit: Visit) -> dict[str, Path]:
    """Name the images that a visit's figures are drawn from; they need not be there.

    Parameters
    ----------
    out_dir : Path
        Top folder of the outputs.
    visit : Visit
        Names the files.

    Returns
    -------
    dict of str to Path
        On the FLAIR grid: ``brain``, each contrast by its BIDS suffix, ``mask`` of the lesions,
        ``lesions`` and ``rejected`` candidates numbered, ``probability``.
    """
    images = {
        "brain": OUTPUTS["brain"],
        **{contrast: preprocessed(contrast) for contrast in CONTRASTS},
        "mask": OUTPUTS["mask"],
        "lesions": OUTPUTS["labels"],
        "rejected": OUTPUTS["rejected"],
        "probability": OUTPUTS["probseg"],
    }
    return {name: one.path(out_dir, visit, ".nii.gz") for name, one in images.items()}


def write_figures(out_dir: Path, visit: Visit, mosaics: Iterable[Mosaic]) -> tuple[Path, ...]:
    """Write the frames of some mosaics as ``<prefix>_desc-<key>_FLAIR.png``.

    Parameters
    ----------
    out_dir : Path
        Top folder of the outputs.
    visit : Visit
        Names the files.
    mosaics : iterable of Mosaic

    Returns
    -------
    tuple of Path
        What now stands for this visit; its other figures of :data:`KINDS` are removed.

    Raises
    ------
    CannotCreateError
        If a file cannot be written.
    """
    frames = [frame for mosaic in mosaics for frame in mosaic.frames]
    paths = [figure_path(out_dir, visit, frame.key, extension=".png") for frame in frames]
    try:
        for path, frame in zip(paths, frames, strict=True):
            write_atomic(path, frame.png)
        for old in set(_stored(out_dir, visit).values()) - set(paths):
            old.unlink(missing_ok=True)
    except OSError as error:
        raise CannotCreateError(
            f"cannot write the figures of {visit.key}: {error.strerror or error}",
            hint="make the output folder writable and leave enough free space",
        ) from error
    return tuple(paths)


def read_figures(out_dir: Path, visit: Visit) -> dict[str, tuple[StoredFrame, ...]]:
    """Read the figures of a visit, as far as they are there and whole.

    Parameters
    ----------
    out_dir : Path
        Top folder of the outputs.
    visit : Visit

    Returns
    -------
    mapping of str to tuple of StoredFrame
        Kind (see :data:`KINDS`) to its frames; the one without marks, or FLAIR itself, last.
    """
    stored = _stored(out_dir, visit).items()
    frames = [frame for key, path in stored if (frame := read_frame(key, path))]
    figures = {
        kind: tuple(sorted((f for f in frames if f.key.startswith(kind)), key=_place))
        for kind in KINDS
    }
    return {kind: found for kind, found in figures.items() if found}


def _stored(out_dir: Path, visit: Visit) -> dict[str, Path]:
    """Figures of a visit on disk, by their ``desc-`` label."""
    model = figure_path(out_dir, visit, "KEY", extension=".png")
    start, _, end = model.name.rpartition("KEY")
    found = {
        path.name.removeprefix(start).removesuffix(end): path
        for path in (sorted(model.parent.iterdir()) if model.parent.is_dir() else ())
        if path.name.startswith(start) and path.name.endswith(end)
    }
    return {key: path for key, path in found.items() if key.startswith(KINDS)}


def read_frame(key: str, path: Path) -> StoredFrame | None:
    """Read one picture; None where it is missing or broken.

    Parameters
    ----------
    key : str
        What it is called.
    path : Path
    """
    try:
        png = path.read_bytes()
        title, description = canvas.describe(png)
        width, height = canvas.dimensions(png)
    except (OSError, SyntaxError):  # Pillow calls some broken files a syntax error
        return None
    return StoredFrame(key, title, description, png, width, height)


def view_figure(kind: str, frames: Sequence[StoredFrame]) -> FigureView:
    """Put frames of one size into a page.

    Parameters
    ----------
    kind : str
        See :class:`FigureView`.
    frames : sequence of StoredFrame
        At least one; the first one's description is the caption.
    """
    shown = tuple((frame.title or frame.key, page.data_uri(frame.png)) for frame in frames)
    first = frames[0]
    return FigureView(kind, shown, first.description, first.width, first.height)


def _place(frame: StoredFrame) -> tuple[int, str]:
    if frame.key in _FIRST:
        return _FIRST.index(frame.key), frame.key
    return len(_FIRST) + (frame.key in _LAST), frame.key
