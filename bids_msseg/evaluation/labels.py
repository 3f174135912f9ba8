"""Manual masks of the visits of a dataset, and the consensus of several raters."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_msseg import __version__
from bids_msseg.bids.dataset import BIDS_VERSION
from bids_msseg.bids.files import is_newer, write_atomic, write_json
from bids_msseg.bids.image_selection import misnamed
from bids_msseg.bids.paths import visit_dir
from bids_msseg.bids.visit import Visit, name_entities
from bids_msseg.errors import NoInputError
from bids_msseg.evaluation.raters import (
    LABELS,
    choose_raters,
    complete_names_of,
    read_on_one_grid,
)
from bids_msseg.imaging.volume import Volume, save_volume
from bids_msseg.lesions.mask_values import ANY, MaskValues, lesion_voxels
from bids_msseg.lesions.raters.consensus import fuse_masks

LOGGER = logging.getLogger("bids_msseg")


@dataclass(frozen=True, slots=True)
class LabelledFiles:
    """Files of one labelled visit; masks are on the FLAIR grid."""

    visit: Visit
    brain: Path
    truth: Path  # the majority mask of several raters
    site: str
    share: Path | None = None  # of the raters that drew a voxel, 0 to 1
    brain_given: bool = True  # False if ``brain`` is written when the visit is prepared

    @property
    def learnt(self) -> Path:
        """Training target: the raters' share if available, otherwise the mask."""
        return self.share or self.truth


def find_labelled(
    bids_dir: Path,
    labels: Path,
    consensus: Path,
    *,
    site_column: str = "site",
    mask_values: MaskValues = None,
) -> list[LabelledFiles]:
    """Pair visits with their manual masks; write missing masks to the dataset ``consensus``.

    Raises NoInputError without a labelled visit, DataError if raters' grids differ.
    """
    from bids_msseg.bids.query import find_visits

    selection = find_visits(bids_dir, derivatives={"labels": require_labels(labels)})
    complete_names_of(
        (path, visit.participant, visit.session)
        for visit in selection.visits
        for path in _masks(visit_dir(labels, visit) / "anat")
    )
    sites = read_sites(bids_dir, site_column)
    files = []
    for visit in selection.visits:
        if find_truth(labels, visit) is None and not find_raters(labels, visit):
            LOGGER.warning("%s skipped: no manual lesion mask", visit.key)
            continue
        site = sites.get(visit.participant, "one site")
        files.append(_pair(visit, labels, consensus, site, mask_values))
    if not files:
        raise _nothing_labelled(bids_dir, labels)
    n_computed = sum(not item.brain_given for item in files)
    if n_computed:
        _describe(consensus)
        LOGGER.info("%d visits have no brain mask: it is computed as in msseg", n_computed)
    fused = sum(item.share is not None for item in files)
    if 0 < fused < len(files):
        LOGGER.warning(
            "%d visits have one mask, %d a consensus of several raters", len(files) - fused, fused
        )
    return files


def _nothing_labelled(bids_dir: Path, labels: Path) -> NoInputError:
    return NoInputError(
        f"no visit of {bids_dir} has a manual mask in {labels}",
        hint="name masks sub-<label>_space-FLAIR_label-L_mask.nii.gz (of several raters "
        "sub-<label>_space-FLAIR_label-L_desc-rater<label>_mask.nii.gz)",
    )


def _pair(
    visit: Visit, labels: Path, consensus: Path, site: str, mask_values: MaskValues
) -> LabelledFiles:
    brain_given = visit.brain_mask is not None
    stem = f"{visit.key}_space-FLAIR_desc-brain_mask.nii.gz"
    brain = visit.brain_mask or visit_dir(consensus, visit) / "anat" / stem
    truth, raters = find_truth(labels, visit), find_raters(labels, visit)
    if truth is not None and raters:
        LOGGER.warning(
            "%s: using %s, not the masks of %d raters", visit.key, truth.name, len(raters)
        )
    if truth is not None or len(raters) == 1:
        mask = plain_mask(truth or raters[0], visit, consensus, mask_values)
        return LabelledFiles(visit, brain, mask, site, brain_given=brain_given)
    mask, share = fuse_raters(raters, visit, consensus, mask_values)
    LOGGER.info("%s: consensus of %d raters", visit.key, len(raters))
    return LabelledFiles(visit, brain, mask, site, share, brain_given)


def find_truth(labels_dir: Path, visit: Visit, *, space: str = "FLAIR") -> Path | None:
    """Find the lesion mask of a visit without ``desc-``; no ``space-`` means FLAIR."""
    for label in LABELS:
        matches = [
            path
            for path in _masks_of(labels_dir, visit, f"label-{label}_")
            if "_desc-" not in path.name
            and name_entities(path.name)[0].get("space", "FLAIR") == space
        ]
        if matches:
            return matches[0]
    return None


def find_raters(labels_dir: Path, visit: Visit) -> tuple[Path, ...]:
    """Find the masks ``desc-rater<label>`` of a visit, one per rater in order of labels."""
    return tuple(choose_raters(_masks_of(labels_dir, visit, "desc-rater*_")).values())


def _masks_of(labels_dir: Path, visit: Visit, entities: str) -> list[Path]:
    """List the masks of a visit with complete BIDS names; ``entities`` is a pattern of the end."""
    return [
        path
        for path in _masks(visit_dir(labels_dir, visit) / "anat", f"{visit.key}_*{entities}")
        if not misnamed(path, visit.participant, visit.session)
    ]


def _masks(folder: Path, start: str = "*_") -> list[Path]:
    return sorted(folder.glob(f"{start}mask.nii*"))


def plain_mask(mask: Path, visit: Visit, consensus: Path, values: MaskValues = None) -> Path:
    """Return the path of a mask of 0 and 1, or of shares, written to ``consensus`` if needed."""
    (volume,) = read_on_one_grid([mask])
    lesions = _lesions(volume, mask, visit, values)
    values_present = np.unique(volume.data)
    is_share = values is None and values_present.size > 2 and values_present[-1] <= 1
    if is_share or np.array_equal(lesions, volume.data):
        return mask
    target = _stem(consensus, visit, "mask")
    description = f"Voxels of {mask.name} with a lesion value"
    if not _is_up_to_date(target, [mask], values):
        _write(target, volume.with_data(lesions), description, [mask], values)
        _describe(consensus)
    return target


def fuse_raters(
    raters: Sequence[Path], visit: Visit, consensus: Path, values: MaskValues = None
) -> tuple[Path, Path]:
    """Write the consensus of raters' masks unless up to date; return majority mask and share."""
    mask, share = (_stem(consensus, visit, suffix) for suffix in ("mask", "probseg"))
    if all(_is_up_to_date(path, raters, values) for path in (mask, share)):
        return mask, share
    volumes = read_on_one_grid(raters)
    lesion_masks = [
        _lesions(volume, path, visit, values) for volume, path in zip(volumes, raters, strict=True)
    ]
    fused = fuse_masks(lesion_masks, "majority", volumes[0].spacing)
    _describe(consensus)
    for path, data, description in (
        (share, fused.probability, "Share of the raters that drew a voxel"),
        (mask, fused.mask, "Voxels that at least half of the raters drew"),
    ):
        _write(path, volumes[0].with_data(data), description, raters, values)
    return mask, share


def _lesions(volume: Volume, path: Path, visit: Visit, values: MaskValues) -> NDArray[np.bool_]:
    lesions, note = lesion_voxels(volume.data, path.name, values)
    if note:
        LOGGER.warning("%s: %s", visit.key, note)
    return lesions


def _stem(consensus: Path, visit: Visit, suffix: str) -> Path:
    name = f"{visit.key}_space-FLAIR_label-L_{suffix}.nii.gz"
    return visit_dir(consensus, visit) / "anat" / name


def _describe(consensus: Path) -> None:
    write_json(
        consensus / "dataset_description.json",
        {
            "Name": "Manual masks used for training",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "bids_msseg", "Version": __version__}],
        },
    )


def _write(
    target: Path, volume: Volume, description: str, sources: Sequence[Path], values: MaskValues
) -> None:
    # the sidecar is written last: it shows that the image is complete
    _sidecar(target).unlink(missing_ok=True)
    write_atomic(target, lambda path: save_volume(volume, path))
    about = {"Description": description, "Type": "Lesion", **_origin(sources, values)}
    write_json(_sidecar(target), about)


def _is_up_to_date(target: Path, sources: Sequence[Path], values: MaskValues) -> bool:
    if not (is_newer([target], sources) and _sidecar(target).is_file()):
        return False
    recorded = json.loads(_sidecar(target).read_text(encoding="utf-8"))
    return bool(_origin(sources, values).items() <= recorded.items())


def _origin(sources: Sequence[Path], values: MaskValues) -> dict[str, Any]:
    return {
        "Sources": [path.name for path in sources],
        "MaskValues": ANY if values is None else list(values),
    }


def _sidecar(image: Path) -> Path:
    return image.with_name(image.name.replace(".nii.gz", ".json"))


def read_sites(bids_dir: Path, column: str) -> dict[str, str]:
    """Read the site of each participant (without ``sub-``) from ``participants.tsv``."""
    table = bids_dir / "participants.tsv"
    if not table.is_file():
        return {}
    with table.open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    return {
        row["participant_id"].removeprefix("sub-"): row[column]
        for row in rows
        if row.get(column) and row.get("participant_id")
    }


def require_labels(labels_dir: Path) -> Path:
    """Return the folder of manual masks; raise NoInputError if it does not exist."""
    if not labels_dir.is_dir():
        raise NoInputError(
            f"the folder of manual masks {labels_dir} does not exist",
            hint="pass a derivative dataset with *_space-FLAIR_label-L_mask.nii.gz to --labels",
        )
    return labels_dir
