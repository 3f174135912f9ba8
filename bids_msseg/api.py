"""Python interface: segment the images of one visit without BIDS, with the steps of the app."""

from __future__ import annotations

import os
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
from nibabel.spatialimages import HeaderDataError, SpatialImage

from bids_msseg.calibration import Calibration, read_calibration
from bids_msseg.config_parts import Processing
from bids_msseg.errors import DataError, UsageError
from bids_msseg.imaging.atlas import Atlas
from bids_msseg.imaging.header import check_header
from bids_msseg.imaging.stored import as_nifti
from bids_msseg.imaging.volume import Volume, as_stored, to_image
from bids_msseg.lesions.confidence.uncertainty import LoadInterval
from bids_msseg.lesions.load import LesionRow, summarise
from bids_msseg.models.weights import find_model, read_header
from bids_msseg.options import read_options
from bids_msseg.pipeline.atlas import load_atlas
from bids_msseg.pipeline.brain import brain_device
from bids_msseg.pipeline.lesions import MASK_THRESHOLD, Grid, VisitLesions
from bids_msseg.pipeline.preprocess import preprocess, read_contrasts
from bids_msseg.pipeline.quality import check_images
from bids_msseg.pipeline.uncertainty import lesion_confidence, load_interval
from bids_msseg.pipeline.visit import (
    GivenMasks,
    VisitJob,
    fill_images,
    find_visit_lesions,
    measure_atlases,
)
from bids_msseg.resources import resolve_resources
from bids_msseg.result import SegmentationResult
from bids_msseg.spaces import AtlasChoice

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
    min_lesion_volume: float | None = None,
    lesion_mask: Image | None = None,
    exclude_masks: Image | Sequence[Image] = (),
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
    min_lesion_volume : float, optional
        Smallest lesion in mm³; that of ``msseg`` where not given.
    lesion_mask : path or nibabel image, optional
        Lesions drawn by a person or found by another program, on the grid of the FLAIR. It
        replaces the networks' lesions; the networks then segment the anatomy only.
    exclude_masks : path or nibabel image, or a sequence of them, optional
        Regions on the grid of the FLAIR in which nothing is a lesion, such as a tumour.

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
    if isinstance(exclude_masks, str) or not isinstance(exclude_masks, Sequence):
        exclude_masks = (exclude_masks,)
    job = _read_arguments(
        model,
        threads,
        threshold=threshold,
        device=device,
        atlas=atlas,
        fill_lesions=fill_lesions,
        min_lesion_volume=min_lesion_volume,
    )
    with tempfile.TemporaryDirectory(prefix="msseg-") as folder:
        files = {
            name: _as_file(image, Path(folder) / f"{name}.nii", name)
            for name, image in images.items()
            if image is not None or name == "FLAIR"
        }
        drawn = None
        if lesion_mask is not None:
            drawn = _as_file(lesion_mask, Path(folder) / "lesion_mask.nii", "lesion mask")
        exclusions = tuple(
            _as_file(image, Path(folder) / f"exclusion_mask-{number}.nii", "exclusion mask")
            for number, image in enumerate(exclude_masks, start=1)
        )
        return _segment(files, drawn, exclusions, job)


def _read_arguments(
    model: str | os.PathLike[str] | None, threads: int | None, **arguments: Any
) -> VisitJob:
    """Check the arguments other than images and load the atlases before anything is computed."""
    arguments |= {"model": None if model is None else os.fspath(model), "omp_nthreads": threads}
    options = read_options(
        {name: value for name, value in arguments.items() if value is not None},
        spelling=lambda name: "threads" if name == "omp_nthreads" else name,
    )
    path = find_model(options.get("model"))
    header, defaults = read_header(path), Processing()
    _check_networks(path, arguments["device"])
    return VisitJob(
        model=path,
        header=header,
        threshold=options.get("threshold", header.point.threshold),
        min_volume=options.get("min_lesion_volume", defaults.min_lesion_volume),
        device=arguments["device"],
        threads=resolve_resources(omp_nthreads=threads).omp_nthreads,
        seed=defaults.random_seed,
        atlases=tuple((choice, _load_atlas(choice)) for choice in options.get("atlas", ())),
        fill_lesions=options["fill_lesions"],
    )


def _load_atlas(choice: AtlasChoice) -> Atlas:
    """Load an atlas; raise UsageError if each visit needs its own."""
    if choice.is_per_visit:
        raise UsageError(
            f"the atlas {choice} does not name a file",
            hint="name the file and its space, for example mri/aparc+aseg.mgz:T1w",
        )
    return load_atlas(choice)


def _check_networks(model: Path, device: str) -> None:
    from bids_msseg.models.checkpoint import check_cascade
    from bids_msseg.models.engine import choose_engine

    choose_engine(device)
    check_cascade(model)


def _as_file(image: Image | None, target: Path, contrast: str) -> Path:
    """Return the path of an image; an image in memory is written to ``target`` first."""
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


def _segment(
    files: Mapping[str, Path],
    lesion_mask: Path | None,
    exclude_masks: Sequence[Path],
    job: VisitJob,
) -> SegmentationResult:
    """Run the steps in the order of the BIDS App."""
    spacings = {name: check_header(path, contrast=name).spacing for name, path in files.items()}
    grid = Grid.of(files["FLAIR"])
    job = replace(job, masks=GivenMasks.read(grid, lesion_mask, exclude_masks))
    calibration = read_calibration(job.model, job.header.sha256)
    if lesion_mask is not None:
        job, calibration = replace(job, threshold=MASK_THRESHOLD), Calibration()
    images, notes = read_contrasts(files)
    preprocessed = preprocess(
        images,
        device=brain_device(job.device),
        threads=job.threads,
        seed=job.seed,
    )
    segmented = find_visit_lesions(preprocessed, grid, job)
    maps = {name: grid.frame.with_data(data) for name, data in segmented.lesions.maps.items()}
    regions, region_notes = measure_atlases(preprocessed, maps["labels"], job)
    quality = check_images(
        preprocessed.stack,
        preprocessed.brain,
        spacings,
        training=calibration.training,
        known_faults=preprocessed.faults,
    )
    rows = _rows(segmented.lesions, calibration, flagged=bool(quality.faults))
    load = summarise(rows).total_ml
    interval, note = _interval(maps.get("probseg"), calibration, load)
    return SegmentationResult(
        mask=to_image(maps["mask"]),
        probability=to_image(maps["probseg"]) if "probseg" in maps else None,
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
        filled=fill_images(files, preprocessed, segmented, job),
        excluded_ml=segmented.lesions.excluded_ml,
    )


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
    probability: Volume | None, calibration: Calibration, load_ml: float
) -> tuple[LoadInterval | None, str]:
    if probability is None:
        return None, "the lesion mask was given, so there is no probability"
    if calibration.load is None:
        return None, calibration.reason
    interval = load_interval(as_stored(probability), calibration.load)
    return interval, interval.contradiction(load_ml)
