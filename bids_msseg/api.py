"""The Python interface: segment the images of one visit, without BIDS.

``from bids_msseg import segment`` is the short way to :func:`segment`. The steps are those of the
BIDS App, in the same order and with the same results.

Public names: :func:`segment`, :class:`SegmentationResult`.
"""

from __future__ import annotations

import os
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError, SpatialImage

from bids_msseg import __version__
from bids_msseg.bids.files import plain, write_atomic, write_json, write_tsv
from bids_msseg.calibration import Calibration, read_calibration
from bids_msseg.config import Processing
from bids_msseg.errors import CannotCreateError, DataError, UsageError
from bids_msseg.imaging.header import check_header
from bids_msseg.imaging.stored import as_nifti
from bids_msseg.imaging.volume import Volume, as_stored, to_image
from bids_msseg.lesions.load import COLUMNS, LesionRow, rows_to_table, summarise
from bids_msseg.lesions.uncertainty import LoadInterval
from bids_msseg.models.brain_volumes import LABEL_COLUMNS, MEASURES, BrainVolumes, label_rows
from bids_msseg.models.weights import ModelHeader, find_model, read_header
from bids_msseg.options import read_options
from bids_msseg.pipeline.anatomy import MeasuredBrain, measure_brain
from bids_msseg.pipeline.brain import brain_device
from bids_msseg.pipeline.lesions import Grid, VisitLesions, find_anatomy, find_lesions
from bids_msseg.pipeline.preprocess import Preprocessed, preprocess, read_contrasts
from bids_msseg.pipeline.quality import check_images
from bids_msseg.pipeline.segment import segment_stack
from bids_msseg.pipeline.uncertainty import lesion_confidence, load_interval
from bids_msseg.resources import resolve_resources

__all__ = ["SegmentationResult", "segment"]

Image = str | os.PathLike[str] | SpatialImage
MASK_FILE, PROBABILITY_FILE = "lesions.nii.gz", "probability.nii.gz"
TABLE_FILE, SUMMARY_FILE = "lesions.tsv", "summary.json"
ANATOMY_FILE, ANATOMY_TABLE_FILE = "anatomy.nii.gz", "anatomy.tsv"


@dataclass(frozen=True, slots=True, eq=False)
class SegmentationResult:
    """What :func:`segment` found.

    Attributes
    ----------
    mask : nibabel image
        1 in lesions, 0 elsewhere, on the grid of the FLAIR that was given.
    probability : nibabel image
        Probability of lesion, on the same grid.
    lesions : tuple of LesionRow
        One row per lesion, then one per rejected candidate; ``status`` tells them apart.
    lesion_load_ml : float
        Volume of all lesions, mL.
    interval : LoadInterval or None
        90 % interval of the load; None where the weights come without one.
    interval_note : str
        Why there is no interval, or which to believe where the load lies outside; else empty.
    flags : tuple of str
        Reasons to look at the images and the result; empty where no check raised one.
    notes : tuple of str
        What was unusual and how it was taken, ``step: note``.
    model : str
        Name of the weights.
    model_sha256 : str
    threshold : float
        Probability from which a voxel is lesion.
    contrasts : tuple of str
        Those that were used.
    anatomy : nibabel image
        Classes of :class:`~bids_msseg.models.anatomy.Anatomy`, on the same grid.
    brain : BrainVolumes
        Volumes of these classes, parenchymal and ventricular fraction.
    """

    mask: nib.Nifti1Image
    probability: nib.Nifti1Image
    lesions: tuple[LesionRow, ...]
    lesion_load_ml: float
    interval: LoadInterval | None
    interval_note: str
    flags: tuple[str, ...]
    notes: tuple[str, ...]
    model: str
    model_sha256: str
    threshold: float
    contrasts: tuple[str, ...]
    anatomy: nib.Nifti1Image
    brain: BrainVolumes

    @property
    def lesion_count(self) -> int:
        """Number of lesions, rejected candidates left out."""
        return sum(row.status == "kept" for row in self.lesions)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the mask, the probability, the anatomy, their tables and ``summary.json``.

        Each file appears when it is complete; the summary, which says that all are there, comes
        last. Files of an earlier result are replaced.

        Parameters
        ----------
        folder : path
            Made where it is missing.

        Raises
        ------
        CannotCreateError
            If a file cannot be written.
        """
        place = Path(folder)
        try:
            (place / SUMMARY_FILE).unlink(missing_ok=True)
            write_atomic(place / MASK_FILE, lambda path: nib.save(self.mask, path))
            write_atomic(place / PROBABILITY_FILE, lambda path: nib.save(self.probability, path))
            names = tuple(column.name for column in COLUMNS)
            write_tsv(place / TABLE_FILE, names, rows_to_table(self.lesions))
            write_atomic(place / ANATOMY_FILE, lambda path: nib.save(self.anatomy, path))
            write_tsv(place / ANATOMY_TABLE_FILE, tuple(LABEL_COLUMNS), label_rows(self.brain))
            write_json(place / SUMMARY_FILE, self.summary())
        except OSError as error:
            raise CannotCreateError(
                f"cannot write {place}: {error.strerror or error}",
                hint="name a folder that can be written, with enough free space",
            ) from error

    def summary(self) -> dict[str, Any]:
        """Give the numbers of ``summary.json``."""
        return {
            "lesion_load_ml": self.lesion_load_ml,
            "lesion_count": self.lesion_count,
            "interval": None if self.interval is None else asdict(self.interval),
            "interval_note": self.interval_note,
            "flags": self.flags,
            "notes": self.notes,
            "contrasts": self.contrasts,
            "brain": plain({one.name: one.value(self.brain) for one in MEASURES}),
            "threshold": self.threshold,
            "model": {"name": self.model, "sha256": self.model_sha256},
            "version": __version__,
        }


def segment(
    flair: Image,
    t1w: Image | None = None,
    t2w: Image | None = None,
    model: str | os.PathLike[str] | None = None,
    threshold: float | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> SegmentationResult:
    """Segment the lesions of one visit.

    Images may be raw heads in any orientation, not aligned with each other, or skull-stripped.
    For research use only; not for diagnostic use.

    Parameters
    ----------
    flair : path or nibabel image
    t1w, t2w : path or nibabel image, optional
        A contrast that cannot be aligned with the FLAIR is left out, and a flag says so.
    model : str or path, optional
        Name of a bundled model or a weights file; the default model where not given.
    threshold : float, optional
        Probability from which a voxel is lesion; the model's own where not given.
    device : {"auto", "cpu", "cuda", "cuda:N", "mps"}
    threads : int, optional
        All CPUs that the process may use, at most eight, where not given.

    Returns
    -------
    SegmentationResult

    Raises
    ------
    UsageError
        If an argument has a value that it cannot have, or there is no such device or model.
    NoInputError
        If a file is not there.
    DataError
        If an image or the weights cannot be used, or no brain is found.

    Examples
    --------
    >>> result = segment("flair.nii.gz", t1w="t1w.nii.gz")  # doctest: +SKIP
    >>> result.lesion_load_ml, result.lesion_count  # doctest: +SKIP
    (8.87, 21)
    >>> result.save("out")  # doctest: +SKIP
    """
    given: dict[str, Image | None] = {"FLAIR": flair, "T1w": t1w, "T2w": t2w}
    job = _Job.of(model, threshold, device, threads)
    with tempfile.TemporaryDirectory(prefix="msseg-") as folder:
        files = {
            name: _as_file(image, Path(folder) / f"{name}.nii", name)
            for name, image in given.items()
            if image is not None or name == "FLAIR"
        }
        return _segment(files, job)


@dataclass(frozen=True, slots=True)
class _Job:
    """What was asked for besides the images."""

    model: Path
    header: ModelHeader
    threshold: float
    device: str
    threads: int
    defaults: Processing

    @classmethod
    def of(
        cls,
        model: str | os.PathLike[str] | None,
        threshold: float | None,
        device: str,
        threads: int | None,
    ) -> _Job:
        """Check what can be checked before anything is computed."""
        asked = {
            "model": None if model is None else os.fspath(model),
            "threshold": threshold,
            "device": device,
            "omp_nthreads": threads,
        }
        read = read_options(
            {name: value for name, value in asked.items() if value is not None},
            spelling=lambda name: "threads" if name == "omp_nthreads" else name,
        )
        path = find_model(read.get("model"))
        header = read_header(path)
        _check_nets(path, device)
        return cls(
            path,
            header,
            read.get("threshold", header.point.threshold),
            device,
            resolve_resources(omp_nthreads=threads).omp_nthreads,
            Processing(),
        )


def _check_nets(model: Path, device: str) -> None:
    from bids_msseg.cascade.checkpoint import check_cascade
    from bids_msseg.models.engine import choose_engine

    choose_engine(device)
    check_cascade(model)


def _as_file(image: Image | None, target: Path, contrast: str) -> Path:
    """Give the path of an image; one in memory is written, so that it is checked like a file."""
    if isinstance(image, str | os.PathLike):
        return Path(image)
    if not isinstance(image, SpatialImage):
        raise UsageError(
            f"the {contrast} image is {type(image).__name__}",
            hint="give a path or a nibabel image",
        )
    try:
        nib.save(as_nifti(image), target)
    except (OSError, EOFError, ValueError, zlib.error, HeaderDataError) as error:
        raise DataError(
            f"the {contrast} image cannot be read: {error}",
            hint="check the file that it was loaded from, or give its path",
        ) from error
    return target


def _segment(files: Mapping[str, Path], job: _Job) -> SegmentationResult:
    """Do the steps in the order of the BIDS App."""
    spacings = {name: check_header(path, contrast=name).spacing for name, path in files.items()}
    grid = Grid.of(files["FLAIR"])
    images, notes = read_contrasts(files)
    done = preprocess(
        images,
        device=brain_device(job.device),
        threads=job.threads,
        seed=job.defaults.random_seed,
    )
    found, brain, more = _find(done, grid, job)
    known = read_calibration(job.model, job.header.sha256)
    checked = check_images(
        done.stack, done.brain, spacings, training=known.training, known_faults=done.faults
    )
    rows = _rows(found, known, flagged=bool(checked.faults))
    load = summarise(rows).total_ml
    interval, note = _interval(grid.frame.with_data(found.maps["probseg"]), known, load)
    return SegmentationResult(
        mask=to_image(grid.frame.with_data(found.maps["mask"])),
        probability=to_image(grid.frame.with_data(found.maps["probseg"])),
        lesions=rows,
        lesion_load_ml=load,
        interval=interval,
        interval_note=note,
        flags=checked.faults,
        notes=(*notes, *done.notes, *more),
        model=job.header.name,
        model_sha256=job.header.sha256,
        threshold=job.threshold,
        contrasts=tuple(done.images),
        anatomy=to_image(grid.frame.with_data(brain.labels)),
        brain=brain.volumes,
    )


def _find(
    done: Preprocessed, grid: Grid, job: _Job
) -> tuple[VisitLesions, MeasuredBrain, tuple[str, ...]]:
    """Run the networks and list the lesions; images have the precision of files in between."""
    regions, own = find_anatomy(
        done.images, done.transforms, done.brain.data > 0, done.template_to_flair
    )
    with _torch_threads(job.threads):
        maps = segment_stack(done.stack, job.model, device=job.device)
    classes = as_stored(maps.pop("anatomy"), np.uint8)
    stored = {name: as_stored(volume) for name, volume in maps.items()}
    stored |= {"mask": done.brain, "regions": as_stored(regions, np.uint8)}
    if done.extracerebral is not None:
        stored["extracerebral"] = done.extracerebral
    found = find_lesions(
        grid,
        stored,
        done.template_to_flair,
        threshold=job.threshold,
        min_volume=job.defaults.min_lesion_volume,
        own_ventricles=own.from_own_fluid,
    )
    trusted = done.extracerebral is not None
    brain = measure_brain(classes, grid, done.template_to_flair if trusted else None)
    told = {"anatomy": own.note, "volumes": brain.note}
    return found, brain, tuple(f"{step}: {note}" for step, note in told.items() if note)


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    """Let torch use so many threads, and set their number back."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _rows(found: VisitLesions, known: Calibration, *, flagged: bool) -> tuple[LesionRow, ...]:
    return tuple(
        replace(
            row,
            confidence=lesion_confidence(row.status, row.p_refined, known.confidence),
            visit_quality="flagged" if flagged else "ok",
        )
        for row in found.rows
    )


def _interval(
    probability: Volume, known: Calibration, load_ml: float
) -> tuple[LoadInterval | None, str]:
    if known.load is None:
        return None, known.reason
    found = load_interval(as_stored(probability), known.load)
    return found, found.contradiction(load_ml)
