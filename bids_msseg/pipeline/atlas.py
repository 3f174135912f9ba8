"""Lesion load in the regions of an atlas."""

from __future__ import annotations

from pathlib import Path

from bids_msseg.imaging.atlas import Atlas, atlas_onto, embedded_atlas, read_atlas
from bids_msseg.imaging.template import find_label_image
from bids_msseg.imaging.volume import Affine, Volume
from bids_msseg.lesions.atlas import RegionLoad, load_per_region
from bids_msseg.spaces import AtlasChoice


def load_atlas(choice: AtlasChoice) -> Atlas:
    """Load the chosen atlas, of one visit if it is a file; MssegError if that fails."""
    if choice.kind == "embedded":
        return embedded_atlas()
    if choice.kind == "templateflow":
        path = find_label_image(
            choice.space, choice.source, desc=choice.desc, resolution=choice.resolution
        )
        return read_atlas(path)
    return read_atlas(Path(choice.source))


def measure_regions(
    lesions: Volume, atlas: Atlas, transform: Affine | None = None
) -> tuple[RegionLoad, ...]:
    """Measure the load of lesions 1..n per region; ``transform``: FLAIR mm to atlas mm."""
    labels = atlas_onto(atlas, lesions.shape, lesions.affine, transform=transform)
    return load_per_region(lesions.data, labels, lesions.voxel_volume, atlas.names)


def outside_note(name: str, rows: tuple[RegionLoad, ...]) -> str:
    """Return a note if no region of an atlas overlaps the FLAIR; empty otherwise."""
    # the volume of what has no label is NaN
    overlaps = any(row.region_ml > 0 for row in rows)
    return "" if overlaps else f"no region of the atlas {name} overlaps the FLAIR"
