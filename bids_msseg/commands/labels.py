"""Finding the manual masks that belong to a dataset's visits."""

from __future__ import annotations

from pathlib import Path

from bids_msseg.bids.visit import Visit
from bids_msseg.errors import NoInputError

LABELS = ("L", "lesion")
"""Values of ``label-`` that mean lesion; BIDS advises the first, the second is as common."""


def find_truth(labels_dir: Path, visit: Visit) -> Path | None:
    """Find the manual lesion mask of a visit on its FLAIR grid.

    Parameters
    ----------
    labels_dir : path
        A derivative dataset such as ``derivatives/manual``.
    visit : Visit

    Returns
    -------
    path or None
    """
    folder = labels_dir / f"sub-{visit.participant}"
    folder = folder / f"ses-{visit.session}" if visit.session else folder
    for label in LABELS:
        pattern = f"{visit.key}_*label-{label}_mask.nii*"
        found = [
            path
            for path in sorted((folder / "anat").glob(pattern))
            if "_desc-" not in path.name and ("_space-" not in path.name or "FLAIR" in path.name)
        ]
        if found:
            return found[0]
    return None


def require_labels(labels_dir: Path) -> Path:
    """Check that the folder with manual masks is there.

    Raises
    ------
    NoInputError
        If it is not.
    """
    if not labels_dir.is_dir():
        raise NoInputError(
            f"there is no folder of manual masks {labels_dir}",
            cure="give --labels the derivative dataset with *_space-FLAIR_label-L_mask.nii.gz",
        )
    return labels_dir
