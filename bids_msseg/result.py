"""Result of the Python interface for one visit, and its output files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib

from bids_msseg import __version__
from bids_msseg.bids.files import plain, write_atomic, write_json, write_tsv
from bids_msseg.bids.sidecars import atlas_dictionary
from bids_msseg.errors import convert_os_error
from bids_msseg.lesions.atlas import RegionLoad
from bids_msseg.lesions.confidence.uncertainty import LoadInterval
from bids_msseg.lesions.load import COLUMNS, LesionRow, rows_to_table
from bids_msseg.models.brain_volumes import LABEL_COLUMNS, MEASURES, BrainVolumes, label_rows
from bids_msseg.spaces import NATIVE_SPACES

__all__ = ["SegmentationResult"]

MASK_FILE, PROBABILITY_FILE = "lesions.nii.gz", "probability.nii.gz"
TABLE_FILE, SUMMARY_FILE = "lesions.tsv", "summary.json"
ANATOMY_FILE, ANATOMY_TABLE_FILE = "anatomy.nii.gz", "anatomy.tsv"
REGIONS_FILE = "regions.tsv"
FILLED_FILES = {name: f"filled_{name}.nii.gz" for name in NATIVE_SPACES}


@dataclass(frozen=True, slots=True, eq=False)
class SegmentationResult:
    """What :func:`bids_msseg.segment` found.

    Attributes
    ----------
    mask : nibabel image
        1 in lesions, 0 elsewhere, on the grid of the FLAIR that was given.
    probability : nibabel image or None
        Probability of lesion, on the same grid; None where the lesion mask was given.
    lesions : tuple of LesionRow
        One row per lesion, then one per rejected candidate; ``status`` distinguishes them.
    lesion_load_ml : float
        Volume of all lesions, mL.
    interval : LoadInterval or None
        90 % interval of the load; None where the weights come without one.
    interval_note : str
        Why there is no interval, or which load to use if the mask's is outside it; else empty.
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
    regions : mapping of str to tuple of RegionLoad
        Lesion load per region of each atlas that was asked for, by its name.
    filled : mapping of str to nibabel image
        FLAIR and T1w with filled lesions, where that was asked for: grid, type and scale are
        those of the image that was given, and so is every voxel apart from lesions.
    excluded_ml : float or None
        Lesion volume inside the exclusion masks, mL; None without such masks.
    """

    mask: nib.Nifti1Image
    probability: nib.Nifti1Image | None
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
    regions: Mapping[str, tuple[RegionLoad, ...]] = field(default_factory=dict)
    filled: Mapping[str, nib.Nifti1Image] = field(default_factory=dict)
    excluded_ml: float | None = None

    @property
    def lesion_count(self) -> int:
        """Number of lesions, rejected candidates left out."""
        return sum(row.status == "kept" for row in self.lesions)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write images, tables and ``summary.json``.

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
        hint = "choose a writable folder with enough free space"
        with convert_os_error(f"cannot write {place}", hint=hint):
            (place / SUMMARY_FILE).unlink(missing_ok=True)
            write_atomic(place / MASK_FILE, lambda path: nib.save(self.mask, path))
            _save_or_remove(self.probability, place / PROBABILITY_FILE)
            names = tuple(column.name for column in COLUMNS)
            write_tsv(place / TABLE_FILE, names, rows_to_table(self.lesions))
            write_atomic(place / ANATOMY_FILE, lambda path: nib.save(self.anatomy, path))
            write_tsv(place / ANATOMY_TABLE_FILE, tuple(LABEL_COLUMNS), label_rows(self.brain))
            self._save_regions(place / REGIONS_FILE)
            self._save_filled(place)
            write_json(place / SUMMARY_FILE, self.summary())

    def _save_regions(self, path: Path) -> None:
        """Write the loads of all atlases; remove those of an earlier result."""
        if not self.regions:
            path.unlink(missing_ok=True)
            return
        rows = (
            {"atlas": name, **asdict(row)} for name, loads in self.regions.items() for row in loads
        )
        write_tsv(path, tuple(atlas_dictionary()), rows)

    def _save_filled(self, place: Path) -> None:
        """Write the images with filled lesions; remove those of an earlier result."""
        for name, file in FILLED_FILES.items():
            _save_or_remove(self.filled.get(name), place / file)

    def summary(self) -> dict[str, Any]:
        """Return the content of ``summary.json``."""
        return {
            "lesion_load_ml": self.lesion_load_ml,
            "lesion_count": self.lesion_count,
            "interval": None if self.interval is None else asdict(self.interval),
            "interval_note": self.interval_note,
            "excluded_ml": self.excluded_ml,
            "flags": self.flags,
            "notes": self.notes,
            "contrasts": self.contrasts,
            "brain": plain({measure.name: measure.value(self.brain) for measure in MEASURES}),
            "threshold": self.threshold,
            "model": {"name": self.model, "sha256": self.model_sha256},
            "version": __version__,
        }


def _save_or_remove(image: nib.Nifti1Image | None, path: Path) -> None:
    """Write an image, or remove that of an earlier result."""
    if image is None:
        path.unlink(missing_ok=True)
    else:
        write_atomic(path, partial(nib.save, image))
