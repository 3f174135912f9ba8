"""From label maps on disk to the heads that images are made of."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bids_msseg.cascade.heads import (
    Head,
    Tissue,
    prepare_anatomy,
    prepare_patient,
    save_head,
)
from bids_msseg.errors import DataError, NoInputError
from bids_msseg.imaging.resample import resample, smooth_before_coarser
from bids_msseg.imaging.volume import Affine, Volume, as_ras, load_volume

LOGGER = logging.getLogger("bids_msseg")
DRAWS = 8
PATIENT_CODES = {1: Tissue.FLUID, 2: Tissue.CORTEX, 3: Tissue.WHITE, 4: Tissue.WHITE}
PATIENT_LESION = 4


def prepare_heads(
    label_maps: Path, folder: Path, *, seed: int = 11, lesion_is_white: bool = False
) -> int:
    """Prepare every label map once.

    Parameters
    ----------
    label_maps : path
        ``anatomy/<name>_dseg.nii.gz`` in FreeSurfer's numbering, 1 mm, without lesions;
        ``tissue-lesion/<participant>_dseg.nii.gz`` (or ``sub-<participant>...``) with 1 fluid,
        2 grey matter, 3 white matter, 4 lesion. Either folder may be missing.
    folder : path
        Receives one ``.npz`` a head.
    seed : int
    lesion_is_white : bool, default False
        See :func:`bids_msseg.cascade.heads.prepare_anatomy`.

    Returns
    -------
    int
        How many heads there are.

    Raises
    ------
    NoInputError
        If there is no label map.
    DataError
        If two maps have one name, or a map without lesions has other voxels than 1 mm.
    """
    folder.mkdir(parents=True, exist_ok=True)
    anatomy = sorted((label_maps / "anatomy").glob("*.nii*"))
    patients = sorted((label_maps / "tissue-lesion").glob("*.nii*"))
    if not anatomy and not patients:
        raise NoInputError(
            f"there is no label map in {label_maps}",
            hint="give --label-maps a folder with anatomy/*_dseg.nii.gz",
        )
    _refuse_twins((*anatomy, *patients))
    for number, path in enumerate((*anatomy, *patients)):
        target = folder / f"{_stem(path)}.npz"
        if not target.is_file():
            white = lesion_is_white
            made = _anatomy(path, (seed, number), white) if path in anatomy else _patient(path)
            save_head(made, target)
            LOGGER.info("prepared %s", made.name)
    return len(anatomy) + len(patients)


def _stem(path: Path) -> str:
    """Name a map; ``sub-lj07_dseg`` and ``lj07_dseg`` are of one participant."""
    return path.name.partition(".")[0].removesuffix("_dseg").removeprefix("sub-")


def _refuse_twins(paths: Sequence[Path]) -> None:
    twins = sorted(name for name, count in Counter(map(_stem, paths)).items() if count > 1)
    if twins:
        raise DataError(
            f"more than one label map is called {', '.join(twins)}",
            hint="give each map a name of its own",
        )


def _anatomy(path: Path, seed: tuple[int, int], lesion_is_white: bool) -> Head:
    volume = as_ras(load_volume(path))
    if not np.allclose(volume.spacing, 1, atol=0.02):
        edges = " x ".join(f"{edge:g}" for edge in volume.spacing)
        raise DataError(
            f"{path.name} has voxels of {edges} mm",
            hint="resample it to 1 mm, each voxel taking its nearest label",
        )
    labels = np.rint(volume.data).astype(np.int32)
    return prepare_anatomy(
        _stem(path),
        labels,
        np.random.default_rng(seed),
        draws=DRAWS,
        lesion_is_white=lesion_is_white,
    )


def _patient(path: Path) -> Head:
    """Bring a patient's map to 1 mm: tissue by its nearest voxel, lesion as a share."""
    volume = as_ras(load_volume(path))
    shape, affine = _one_mm(volume)
    codes = np.rint(volume.data).astype(np.uint8)
    nearest = resample(Volume(codes, volume.affine), shape, affine, order=0).data
    tissue = np.zeros(shape, np.uint8)
    for code, kind in PATIENT_CODES.items():
        tissue[nearest == code] = kind
    lesion = volume.with_data((codes == PATIENT_LESION).astype(np.float32))
    share = resample(smooth_before_coarser(lesion, 1.0), shape, affine).data
    patient = f"sub-{_stem(path).partition('_')[0]}"
    return prepare_patient(_stem(path), patient, tissue, share)


def _one_mm(volume: Volume) -> tuple[tuple[int, int, int], Affine]:
    x, y, z = (
        int(np.ceil(count * edge))
        for count, edge in zip(volume.shape, volume.spacing, strict=True)
    )
    affine = volume.affine.copy()
    affine[:3, :3] = volume.affine[:3, :3] / volume.spacing
    return (x, y, z), affine
