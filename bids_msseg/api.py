"""Python interface: segment the images of one visit without BIDS, with the steps of the app."""

from __future__ import annotations

import os
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError, SpatialImage

from bids_msseg.calibration import Calibration, read_calibration
from bids_msseg.config_parts import Processing
from bids_msseg.errors import DataError, UsageError
from bids_msseg.imaging.atlas import Atlas
from bids_msseg.imaging.header import check_header
from bids_msseg.imaging.registration.itk import as_stored_affine
from bids_msseg.imaging.resample import inverse
from bids_msseg.imaging.stored import as_nifti
from bids_msseg.imaging.template import EMBEDDED
from bids_msseg.imaging.volume import Affine, Volume, as_stored, to_image
from bids_msseg.lesions.atlas import RegionLoad
from bids_msseg.lesions.confidence.uncertainty import LoadInterval
from bids_msseg.lesions.load import LesionRow, summarise
from bids_msseg.models.weights import ModelHeader, find_model, read_header
from bids_msseg.options import read_options
from bids_msseg.pipeline.anatomy import MeasuredBrain, measure_brain
from bids_msseg.pipeline.atlas import load_atlas, measure_regions, outside_note
from bids_msseg.pipeline.brain import brain_device
from bids_msseg.pipeline.filling import fill_image
from bids_msseg.pipeline.lesions import (
    Grid,
    VisitLesions,
    find_anatomy,
    find_lesions,
    mask_on_grid,
)
from bids_msseg.pipeline.preprocess import Preprocessed, fit_template, preprocess, read_contrasts
from bids_msseg.pipeline.quality import check_images
from bids_msseg.pipeline.segment import segment_stack
from bids_msseg.pipeline.uncertainty import lesion_confidence, load_interval
from bids_msseg.resources import resolve_resources
from bids_msseg.result import SegmentationResult
from bids_msseg.spaces import NATIVE_SPACES, AtlasChoice

__all__ = ["segment"]

Image = str | os.PathLike[str] | SpatialImage


def segment(
    flair: Image,
    t1w: Image | None = None,
    t2w: Image | None = None,
    model: str | os.PathLike[str] | None = None,
    threshold: float | None = None,
    device: str = "auto",
    threads: int | None = None,
    atlas: str | Sequence[str] = (),
    fill_lesions: bool = False,
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
    atlas : str or sequence of str, optional
        Atlases for the load per region: ``sides``, a name of TemplateFlow, or ``FILE:SPACE``, as
        for ``msseg --atlas``.
    fill_lesions : bool, default False
        Also give FLAIR and T1w with filled lesions.

    Returns
    -------
    SegmentationResult

    Raises
    ------
    UsageError
        If an argument is invalid, or a device or model does not exist.
    NoInputError
        If a file does not exist.
    DataError
        If an image or the weights cannot be used, or no brain is found.

    Examples
    --------
    >>> result = segment("flair.nii.gz", t1w="t1w.nii.gz")  # doctest: +SKIP
    >>> result.lesion_load_ml, result.lesion_count  # doctest: +SKIP
    (8.87, 21)
    >>> result.save("out")  # doctest: +SKIP
    """
    images: dict[str, Image | None] = {"FLAIR": flair, "T1w": t1w, "T2w": t2w}
    job = _Job.of(model, threshold, device, threads, atlas, fill_lesions)
    with tempfile.TemporaryDirectory(prefix="msseg-") as folder:
        files = {
            name: _as_file(image, Path(folder) / f"{name}.nii", name)
            for name, image in images.items()
            if image is not None or name == "FLAIR"
        }
        return _segment(files, job)


@dataclass(frozen=True, slots=True)
class _Job:
    """Checked arguments of :func:`segment` other than the images."""

    model: Path
    header: ModelHeader
    threshold: float
    device: str
    threads: int
    defaults: Processing
    atlases: tuple[tuple[AtlasChoice, Atlas], ...]
    fill_lesions: bool

    @classmethod
    def of(
        cls,
        model: str | os.PathLike[str] | None,
        threshold: float | None,
        device: str,
        threads: int | None,
        atlas: str | Sequence[str],
        fill_lesions: bool,
    ) -> _Job:
        """Check the arguments and load the atlases before anything is computed."""
        arguments = {
            "model": None if model is None else os.fspath(model),
            "threshold": threshold,
            "device": device,
            "omp_nthreads": threads,
            "atlas": atlas,
            "fill_lesions": fill_lesions,
        }
        options = read_options(
            {name: value for name, value in arguments.items() if value is not None},
            spelling=lambda name: "threads" if name == "omp_nthreads" else name,
        )
        path = find_model(options.get("model"))
        header = read_header(path)
        _check_nets(path, device)
        return cls(
            path,
            header,
            options.get("threshold", header.point.threshold),
            device,
            resolve_resources(omp_nthreads=threads).omp_nthreads,
            Processing(),
            tuple((choice, _load_atlas(choice)) for choice in options.get("atlas", ())),
            options["fill_lesions"],
        )


def _load_atlas(choice: AtlasChoice) -> Atlas:
    """Load an atlas; raise UsageError if each visit needs its own.

    Without a dataset, the image of a visit cannot be searched for.
    """
    if choice.is_per_visit:
        raise UsageError(
            f"the atlas {choice} does not name a file",
            hint="name the file and its space, for example mri/aparc+aseg.mgz:T1w",
        )
    return load_atlas(choice)


def _check_nets(model: Path, device: str) -> None:
    from bids_msseg.models.checkpoint import check_cascade
    from bids_msseg.models.engine import choose_engine

    choose_engine(device)
    check_cascade(model)


def _as_file(image: Image | None, target: Path, contrast: str) -> Path:
    """Return the path of an image; an image in memory is written to ``target`` first.

    It is then checked like any other file.
    """
    if isinstance(image, str | os.PathLike):
        return Path(image)
    if not isinstance(image, SpatialImage):
        raise UsageError(
            f"the {contrast} image has the type {type(image).__name__}",
            hint="pass a path or a nibabel image",
        )
    try:
        nib.save(as_nifti(image), target)
    except (OSError, EOFError, ValueError, zlib.error, HeaderDataError) as error:
        raise DataError(
            f"the {contrast} image cannot be read: {error}",
            hint="check the file that it was loaded from, or pass its path",
        ) from error
    return target


def _segment(files: Mapping[str, Path], job: _Job) -> SegmentationResult:
    """Run the steps in the order of the BIDS App."""
    spacings = {name: check_header(path, contrast=name).spacing for name, path in files.items()}
    grid = Grid.of(files["FLAIR"])
    images, notes = read_contrasts(files)
    preprocessed = preprocess(
        images,
        device=brain_device(job.device),
        threads=job.threads,
        seed=job.defaults.random_seed,
    )
    segmented = _run_networks(preprocessed, grid, job)
    maps = {name: grid.frame.with_data(data) for name, data in segmented.lesions.maps.items()}
    regions, region_notes = _measure_regions(preprocessed, maps["labels"], job)
    calibration = read_calibration(job.model, job.header.sha256)
    quality = check_images(
        preprocessed.stack,
        preprocessed.brain,
        spacings,
        training=calibration.training,
        known_faults=preprocessed.faults,
    )
    rows = _rows(segmented.lesions, calibration, flagged=bool(quality.faults))
    load = summarise(rows).total_ml
    interval, note = _interval(maps["probseg"], calibration, load)
    return SegmentationResult(
        mask=to_image(maps["mask"]),
        probability=to_image(maps["probseg"]),
        lesions=rows,
        lesion_load_ml=load,
        interval=interval,
        interval_note=note,
        flags=quality.faults,
        notes=(*notes, *preprocessed.notes, *segmented.notes, *region_notes),
        model=job.header.name,
        model_sha256=job.header.sha256,
        threshold=job.threshold,
        contrasts=tuple(preprocessed.images),
        anatomy=to_image(grid.frame.with_data(segmented.brain.labels)),
        brain=segmented.brain.volumes,
        regions=regions,
        filled=_fill(files, preprocessed, segmented, job),
    )


@dataclass(frozen=True, slots=True)
class _Segmented:
    """Results of the networks; probability and anatomy are on the working grid."""

    lesions: VisitLesions
    brain: MeasuredBrain
    probability: Volume
    anatomy: Volume
    notes: tuple[str, ...]


def _run_networks(preprocessed: Preprocessed, grid: Grid, job: _Job) -> _Segmented:
    """Run the networks and list the lesions.

    Images between the steps have the precision of files.
    """
    regions, region_anatomy = find_anatomy(
        preprocessed.images,
        preprocessed.transforms,
        preprocessed.brain.data > 0,
        preprocessed.template_to_flair,
    )
    with _torch_threads(job.threads):
        maps = segment_stack(preprocessed.stack, job.model, device=job.device)
    classes = as_stored(maps.pop("anatomy"), np.uint8)
    stored = {name: as_stored(volume) for name, volume in maps.items()}
    stored |= {"mask": preprocessed.brain, "regions": as_stored(regions, np.uint8)}
    if preprocessed.extracerebral is not None:
        stored["extracerebral"] = preprocessed.extracerebral
    lesions = find_lesions(
        grid,
        stored,
        preprocessed.template_to_flair,
        threshold=job.threshold,
        min_volume=job.defaults.min_lesion_volume,
        own_ventricles=region_anatomy.from_own_fluid,
    )
    trusted = preprocessed.extracerebral is not None
    brain = measure_brain(classes, grid, preprocessed.template_to_flair if trusted else None)
    notes = {"anatomy": region_anatomy.note, "volumes": brain.note}
    return _Segmented(
        lesions,
        brain,
        stored["probability"] if lesions.cleared is None else as_stored(lesions.cleared),
        classes,
        tuple(f"{step}: {note}" for step, note in notes.items() if note),
    )


def _measure_regions(
    preprocessed: Preprocessed, lesions: Volume, job: _Job
) -> tuple[dict[str, tuple[RegionLoad, ...]], tuple[str, ...]]:
    """Measure the lesion load per region of each atlas; return loads and notes."""
    loads: dict[str, tuple[RegionLoad, ...]] = {}
    notes: list[tuple[str, str]] = []
    for choice, atlas in job.atlases:
        step = f"atlas_{choice.name}"
        if choice.space == "T1w" and "T1w" not in preprocessed.transforms:
            notes.append((step, "not used: it needs a T1w"))
            continue
        transform, fault = _transform_to(choice.space, preprocessed, job)
        loads[choice.name] = measure_regions(lesions, atlas, transform)
        notes += [(step, fault), (step, outside_note(choice.name, loads[choice.name]))]
    return loads, tuple(f"{step}: {note}" for step, note in notes if note)


def _transform_to(space: str, preprocessed: Preprocessed, job: _Job) -> tuple[Affine | None, str]:
    """Return the affine from FLAIR world to that of a space, and the fault of its fit."""
    if space in NATIVE_SPACES:
        return preprocessed.transforms.get(space), ""
    if space == EMBEDDED:
        return inverse(preprocessed.template_to_flair), ""
    fitted = fit_template(
        preprocessed.images["FLAIR"],
        preprocessed.brain.data > 0,
        name=space,
        threads=job.threads,
        seed=job.defaults.random_seed,
    )
    return inverse(as_stored_affine(fitted.affine)), fitted.fault


def _fill(
    files: Mapping[str, Path], preprocessed: Preprocessed, segmented: _Segmented, job: _Job
) -> dict[str, nib.Nifti1Image]:
    """Fill the lesions of FLAIR and T1w if requested, each image on its own grid."""
    filled: dict[str, nib.Nifti1Image] = {}
    for name in NATIVE_SPACES if job.fill_lesions else ():
        if name not in preprocessed.images:
            continue
        lesions = segmented.lesions.maps["mask"]
        transform: Affine | None = None
        if name in preprocessed.transforms:
            transform = inverse(preprocessed.transforms[name])
            lesions = mask_on_grid(
                Grid.of(files[name]),
                segmented.probability,
                transform=transform,
                threshold=job.threshold,
                min_volume=job.defaults.min_lesion_volume,
            )
        seed = job.defaults.random_seed
        filled[name] = fill_image(
            files[name], lesions, segmented.anatomy, transform=transform, seed=seed
        )
    return filled


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    """Set torch's number of threads, and restore it at the end."""
    import torch

    previous = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(previous)


def _rows(
    lesions: VisitLesions, calibration: Calibration, *, flagged: bool
) -> tuple[LesionRow, ...]:
    return tuple(
        replace(
            row,
            confidence=lesion_confidence(row.status, row.p_final, calibration.confidence),
            image_quality="flagged" if flagged else "ok",
        )
        for row in lesions.rows
    )


def _interval(
    probability: Volume, calibration: Calibration, load_ml: float
) -> tuple[LoadInterval | None, str]:
    if calibration.load is None:
        return None, calibration.reason
    interval = load_interval(as_stored(probability), calibration.load)
    return interval, interval.contradiction(load_ml)
