"""Finding the manual masks that belong to a dataset's visits, and fusing those of several raters.

Public names: :class:`LabelledFiles`, :func:`find_labelled`, :func:`find_truth`,
:func:`find_raters`, :func:`fuse_raters`, :func:`read_sites`, :func:`require_labels`.
"""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bids_msseg import __version__
from bids_msseg.bids.dataset import BIDS_VERSION
from bids_msseg.bids.files import write_atomic, write_json
from bids_msseg.bids.visit import Visit, name_entities
from bids_msseg.commands.cohort_cache import is_newer
from bids_msseg.commands.raters import LABELS as LABELS
from bids_msseg.commands.raters import choose_raters, read_on_one_grid
from bids_msseg.errors import NoInputError
from bids_msseg.imaging.volume import save_volume
from bids_msseg.lesions.consensus import fuse_masks

LOGGER = logging.getLogger("bids_msseg")


@dataclass(frozen=True, slots=True)
class LabelledFiles:
    """The files of one labelled visit.

    Attributes
    ----------
    visit : Visit
    brain, truth : path
        Masks on the FLAIR grid.
    site : str
    share : path, optional
        The share of raters that call a voxel lesion, from 0 to 1; what nets learn where several
        raters drew. ``truth`` is then its majority.
    """

    visit: Visit
    brain: Path
    truth: Path
    site: str
    share: Path | None = None

    @property
    def learnt(self) -> Path:
        """What nets learn: the raters' share where there is one, else the mask."""
        return self.share or self.truth


def find_labelled(
    bids_dir: Path, labels: Path, consensus: Path, *, site_column: str = "site"
) -> list[LabelledFiles]:
    """Pair visits with their manual masks; visits without one are left out and named.

    Parameters
    ----------
    bids_dir : path
    labels : path
        A derivative dataset with lesion masks, one a visit or one a rater, and brain masks.
    consensus : path
        Derivative dataset to write where several raters drew.
    site_column : str, default "site"
        Column of ``participants.tsv``.

    Returns
    -------
    list of LabelledFiles

    Raises
    ------
    NoInputError
        If there is no labelled visit.
    DataError
        If the masks of a visit's raters are on different grids.
    """
    from bids_msseg.bids.query import find_visits

    selection = find_visits(bids_dir, derivatives={"labels": require_labels(labels)})
    sites = read_sites(bids_dir, site_column)
    files = []
    for visit in selection.visits:
        site = sites.get(visit.participant, "one site")
        found = _pair(visit, labels, consensus, site)
        if found is None:
            LOGGER.warning("%s has no manual lesion or brain mask: left out", visit.key)
        else:
            files.append(found)
    if not files:
        raise NoInputError(
            f"no visit of {bids_dir} has a manual mask in {labels}",
            cure="name masks sub-<label>_space-FLAIR_label-L_mask.nii.gz (of several raters "
            "sub-<label>_space-FLAIR_label-L_desc-rater<label>_mask.nii.gz), brain masks "
            "sub-<label>_space-FLAIR_desc-brain_mask.nii.gz",
        )
    fused = sum(item.share is not None for item in files)
    if 0 < fused < len(files):
        LOGGER.warning(
            "%d visits have one mask, %d a consensus of several raters", len(files) - fused, fused
        )
    return files


def _pair(visit: Visit, labels: Path, consensus: Path, site: str) -> LabelledFiles | None:
    if visit.brain_mask is None:
        return None
    truth, raters = find_truth(labels, visit), find_raters(labels, visit)
    if truth is not None:
        if raters:
            LOGGER.warning(
                "%s: %s is used, the masks of %d raters are not",
                visit.key,
                truth.name,
                len(raters),
            )
        return LabelledFiles(visit, visit.brain_mask, truth, site)
    if not raters:
        return None
    if len(raters) == 1:
        return LabelledFiles(visit, visit.brain_mask, raters[0], site)
    mask, share = fuse_raters(raters, visit, consensus)
    LOGGER.info("%s: consensus of %d raters", visit.key, len(raters))
    return LabelledFiles(visit, visit.brain_mask, mask, site, share)


def find_truth(labels_dir: Path, visit: Visit, *, space: str = "FLAIR") -> Path | None:
    """Find the lesion mask of a visit that has no ``desc-``.

    Parameters
    ----------
    labels_dir : path
        A derivative dataset such as ``derivatives/manual``.
    visit : Visit
    space : str, default "FLAIR"
        Value of ``space-``; a file without one is taken for FLAIR.

    Returns
    -------
    path or None
    """
    folder = _folder(labels_dir, visit)
    for label in LABELS:
        pattern = f"{visit.key}_*label-{label}_mask.nii*"
        found = [
            path
            for path in sorted(folder.glob(pattern))
            if "_desc-" not in path.name
            and name_entities(path.name)[0].get("space", "FLAIR") == space
        ]
        if found:
            return found[0]
    return None


def find_raters(labels_dir: Path, visit: Visit) -> tuple[Path, ...]:
    """Find the masks that several raters drew of a visit, ``desc-rater<label>``.

    Parameters
    ----------
    labels_dir : path
        A derivative dataset such as ``derivatives/manual``.
    visit : Visit

    Returns
    -------
    tuple of path
        One a rater, in the order of their labels. Of two files of the same rater, the one with
        ``label-L`` counts.
    """
    paths = _folder(labels_dir, visit).glob(f"{visit.key}_*desc-rater*_mask.nii*")
    return tuple(choose_raters(paths).values())


def _folder(root: Path, visit: Visit) -> Path:
    folder = root / f"sub-{visit.participant}"
    return (folder / f"ses-{visit.session}" if visit.session else folder) / "anat"


def fuse_raters(raters: Sequence[Path], visit: Visit, consensus: Path) -> tuple[Path, Path]:
    """Write the consensus of several raters' masks, unless a newer one is there.

    Parameters
    ----------
    raters : sequence of path
        Masks on one grid; a voxel above one half was drawn.
    visit : Visit
    consensus : path
        Derivative dataset to write to.

    Returns
    -------
    mask, share : path
        ``label-L_mask``, what at least half of the raters drew, and ``label-L_probseg``, the
        share of raters that drew a voxel.

    Raises
    ------
    DataError
        If the masks are on different grids.
    """
    stem = _folder(consensus, visit) / f"{visit.key}_space-FLAIR_label-L"
    mask, share = Path(f"{stem}_mask.nii.gz"), Path(f"{stem}_probseg.nii.gz")
    names = [path.name for path in raters]
    if is_newer([mask, share], raters) and _sources(Path(f"{stem}_mask.json")) == names:
        return mask, share
    volumes = read_on_one_grid(raters)
    drawn = [volume.data > 0.5 for volume in volumes]
    fused = fuse_masks(drawn, "majority", volumes[0].spacing)
    write_json(
        consensus / "dataset_description.json",
        {
            "Name": "Consensus of several raters",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "bids_msseg", "Version": __version__}],
        },
    )
    written = (
        (share, fused.probability, "Share of the raters that drew a voxel"),
        (mask, fused.mask, "What at least half of the raters drew"),
    )
    for path, data, what in written:
        volume = volumes[0].with_data(data)
        write_atomic(path, lambda place, volume=volume: save_volume(volume, place))  # type: ignore[misc]
        about = {"Description": what, "Sources": names, "Type": "Lesion"}
        write_json(path.with_name(path.name.replace(".nii.gz", ".json")), about)
    return mask, share


def _sources(path: Path) -> list[str]:
    if not path.is_file():
        return []
    return list(json.loads(path.read_text(encoding="utf-8")).get("Sources", []))


def read_sites(bids_dir: Path, column: str) -> dict[str, str]:
    """Read each participant's site."""
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
