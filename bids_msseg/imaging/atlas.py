"""Atlases: label images with the names of their regions, from a file or from TemplateFlow."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from bids_msseg.errors import DataError, NoInputError
from bids_msseg.imaging.freesurfer import freesurfer_names
from bids_msseg.imaging.resample import resample
from bids_msseg.imaging.template import EMBEDDED, has_content, load_template
from bids_msseg.imaging.volume import UNREADABLE, Affine, Volume
from bids_msseg.spaces import EMBEDDED_ATLAS, atlas_name

FREESURFER = re.compile(r"aseg|aparc|wmparc")
"""Names of files that hold FreeSurfer's labels."""
FOLDERS_ABOVE = 3
"""A table may lie at the top of a dataset, above subject, session and type of data."""
INTEGER_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Atlas:
    """A label image with the names of its labels."""

    name: str  # letters and digits, for the BIDS entity atlas-
    volume: Volume  # int32, 0 for no label
    names: Mapping[int, str]  # of all other labels in the image


def read_atlas(path: Path) -> Atlas:
    """Read a label image and its names; NoInputError if missing, DataError if unusable."""
    volume = _read_labels(path)
    table_file = find_table(path)
    if table_file is not None:
        table_names = read_names(table_file)
    else:
        table_names = freesurfer_names() if FREESURFER.search(path.name) else {}
    labels = [int(label) for label in np.unique(volume.data) if label]
    names = {label: table_names.get(label, f"label {label}") for label in labels}
    return Atlas(atlas_name(path), volume, names)


def embedded_atlas() -> Atlas:
    """Return the regions r of the embedded template: 2r - 1 on the left, 2r on the right."""
    template = load_template()
    regions = np.asarray(template.regions, np.int32)
    names = read_names(template.directory / f"tpl-{EMBEDDED}_res-1_seg-regions_dseg.tsv")
    # the axes of the template are those of its world
    x = template.volume.affine[0, 0] * np.arange(regions.shape[0]) + template.volume.affine[0, 3]
    left = (x <= 0)[:, None, None]
    labels = np.where(regions > 0, 2 * regions - left, 0).astype(np.int32)
    sides = {2 * r - 1: f"left {name}" for r, name in names.items()}
    sides |= {2 * r: f"right {name}" for r, name in names.items()}
    return Atlas(EMBEDDED_ATLAS, template.volume.with_data(labels), dict(sorted(sides.items())))


def atlas_onto(
    atlas: Atlas, shape: tuple[int, int, int], affine: Affine, *, transform: Affine | None = None
) -> NDArray[np.int32]:
    """Resample labels by nearest neighbour; ``transform``: world mm of the grid to the atlas."""
    return resample(atlas.volume, shape, affine, transform=transform, order=0).data


def find_table(path: Path) -> Path | None:
    """Find the table of label names by the inheritance principle of BIDS."""
    parts = _parts(path)
    folder = path.absolute().parent
    for directory in (folder, *folder.parents[:FOLDERS_ABOVE]):
        candidates = [
            candidate
            for candidate in sorted(directory.glob("*.tsv"))
            if _parts(candidate)[-1] == parts[-1]
            and set(_parts(candidate)) <= set(parts)
            and has_content(candidate)
        ]
        if candidates:
            return max(candidates, key=lambda candidate: len(_parts(candidate)))
    return None


def read_names(path: Path) -> dict[int, str]:
    """Read label names from a ``.tsv`` (``index``, ``name``) or a FreeSurfer colour table."""
    if not path.is_file():
        raise NoInputError(f"the label table {path} does not exist", hint="check the path")
    try:
        text = path.read_text(encoding="utf-8-sig")
        return _from_tsv(text) if path.suffix == ".tsv" else _from_colour_table(text)
    except (OSError, ValueError, KeyError, TypeError, IndexError, csv.Error) as error:
        raise DataError(
            f"cannot read the label table {path}: {type(error).__name__}: {error}",
            hint="use a .tsv with the columns index and name, or FreeSurferColorLUT.txt",
        ) from error


def _from_tsv(text: str) -> dict[int, str]:
    stream = io.StringIO(text, newline="")
    rows = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE, restval="n/a")
    names = {int(row["index"]): row["name"] for row in rows}
    if not names:
        raise ValueError("no rows")
    return names


def _from_colour_table(text: str) -> dict[int, str]:
    lines = [line.split() for line in text.splitlines() if line.strip()]
    names = {int(columns[0]): columns[1] for columns in lines if not columns[0].startswith("#")}
    if not names:
        raise ValueError("no lines")
    return names


def _read_labels(path: Path) -> Volume:
    if not path.is_file():
        raise NoInputError(f"the label image {path} does not exist", hint="check the path")
    try:
        image: Any = nib.load(path)
        data = np.asarray(image.dataobj)
    except UNREADABLE as error:
        raise DataError(
            f"the label image {path} cannot be read: {error}", hint="copy or download it again"
        ) from error
    if data.ndim < 3 or data.size != np.prod(data.shape[:3]):
        raise DataError(
            f"the label image {path} has the shape {data.shape}",
            hint="use a 3-D label image (dseg), not a probability map",
        )
    # written so that NaN fails as well
    if (
        not (np.abs(data - np.rint(data)) <= INTEGER_TOLERANCE).all()
        or np.abs(data).max(initial=0) >= 2**31
    ):
        raise DataError(
            f"the label image {path} contains values that are not valid labels",
            hint="use an integer label image (dseg), resampled by nearest neighbour",
        )
    labels = np.rint(data).astype(np.int32).reshape(data.shape[:3])
    return Volume(labels, np.asarray(image.affine, np.float64))


def _parts(path: Path) -> list[str]:
    """Split a file name into its entities and suffix."""
    return path.name.partition(".")[0].split("_")
