"""Lesion frequency of a cohort: share of participants with a lesion, in template space."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from bids_msseg.bids.paths import visit_dir
from bids_msseg.bids.visit import Visit
from bids_msseg.imaging.template import EMBEDDED, load_template
from bids_msseg.imaging.volume import Volume, load_if_readable
from bids_msseg.lesions.instances import bounding_box
from bids_msseg.reports.images import canvas
from bids_msseg.reports.images.canvas import Picture, Text
from bids_msseg.reports.images.slices import AXIAL, Cut, even_slices, on_screen, to_ras

SLICES = 10
COLUMNS = 5
MIN_WIDTH = 480
"""Pixels that the legend needs."""
SCALE = 0.8
"""Millimetres a pixel."""
COLOURS = np.array([[120, 20, 60], [220, 60, 20], [255, 170, 20], [255, 250, 190]], float)
"""Colours from one participant to the largest number of participants at one place."""
_SPACE = re.compile(
    r"_space-(?P<name>[0-9A-Za-z+]+)_res-(?P<resolution>\d+)_label-L_mask\.nii\.gz$"
)


@dataclass(frozen=True, slots=True)
class Frequency:
    """Lesion frequency map of a cohort in a TemplateFlow space."""

    space: str
    resolution: int
    share: Volume  # of participants with a lesion at any visit, 0 to 1
    participants: int
    most: int  # largest number of participants with a lesion at one place


def lesion_frequency(out_dir: Path, visits: Iterable[Visit]) -> Frequency | None:
    """Map lesion frequency in the most common template space; None below two participants."""
    masks: dict[tuple[str, int], dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for visit in visits:
        folder = visit_dir(out_dir, visit) / "anat"
        for path in sorted(folder.glob(f"{visit.prefix}_space-*_label-L_mask.nii.gz")):
            if match := _SPACE.search(path.name):
                masks[match["name"], int(match["resolution"])][visit.participant].append(path)
    if not masks:
        return None
    counts = Counter({space: len(people) for space, people in masks.items()})
    (name, resolution), _ = counts.most_common(1)[0]
    return _count(name, resolution, list(masks[name, resolution].values()))


def _count(name: str, resolution: int, people: Sequence[Sequence[Path]]) -> Frequency | None:
    affine: NDArray[np.float64] | None = None
    total: NDArray[np.int32] | None = None
    n_participants = 0
    for paths in people:
        masks = (load_if_readable(path, np.uint8) for path in paths)
        volumes = [mask for mask in masks if mask is not None]
        if total is None and volumes:
            affine, total = volumes[0].affine, np.zeros(volumes[0].shape, np.int32)
        if total is None:
            continue
        lesions = [volume.data != 0 for volume in volumes if volume.shape == total.shape]
        if lesions:
            total += np.any(lesions, axis=0)
            n_participants += 1
    if total is None or affine is None or n_participants < 2:
        return None
    share = Volume((total / n_participants).astype(np.float32), affine)
    return Frequency(name, resolution, share, n_participants, int(total.max()))


def write_frequency(frequency: Frequency, path: Path) -> None:
    """Write the shares as NIfTI; the same input gives the same bytes."""
    image = nib.Nifti1Image(frequency.share.data, frequency.share.affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def draw_frequency(frequency: Frequency) -> bytes:
    """Draw the frequency map on axial slices of the template, as PNG with description."""
    share = to_ras(frequency.share)
    background = _template(frequency)
    brain = np.ones(share.shape, bool) if background is None else background.data > 0
    box = bounding_box(brain, margin=4)
    grey = np.zeros(share.shape) if background is None else background.data
    brain, grey, shown = brain[box], grey[box], share.data[box]
    indices = even_slices(brain, 2, SLICES)[::-1]
    high = float(np.percentile(grey[brain], 99.5))
    width, height = (round(mm / SCALE) for mm in brain.shape[:2] * share.spacing[:2])
    places, (total_width, total_height) = canvas.flow(
        [(width, height)] * len(indices), COLUMNS * (width + canvas.GAP)
    )
    total_width = max(total_width, MIN_WIDTH)
    picture: Picture = np.zeros((total_height + canvas.FOOTER, total_width, 3), np.uint8)
    texts = []
    for index, place in zip(indices, places, strict=True):
        cut = Cut(AXIAL, index)
        tiles = (on_screen(grey, cut), on_screen(shown, cut))
        canvas.patch(picture, place)[:] = _tile(*tiles, width, height, high, frequency)
        z = (share.affine @ (0, 0, index + box[2].start, 1))[2]
        texts.append(Text(place.left + 4, place.top + height - 4, f"z {z:+.0f} mm", "ld"))
    texts += _legend(picture, frequency, total_width, total_height)
    return canvas.encode(
        canvas.write_letters(picture, texts),
        title="Lesion frequency",
        description=frequency_caption(frequency),
    )


def frequency_caption(frequency: Frequency) -> str:
    """Return a caption of the map."""
    return (
        f"Share of {frequency.participants} participants with a lesion at any of their visits, in "
        f"{frequency.space}. Maximum: {frequency.most} of {frequency.participants}. Radiological "
        "display: the patient's left is on the right."
    )


def _tile(
    grey: NDArray[np.generic],
    share: NDArray[np.generic],
    width: int,
    height: int,
    high: float,
    frequency: Frequency,
) -> Picture:
    background = canvas.to_grey(canvas.magnify(grey, width, height), 0, high * 1.25)
    tile = np.repeat(background[..., None], 3, axis=2)
    count = canvas.magnify(share, width, height, order=0) * frequency.participants
    tile[count > 0.5] = _colour(count[count > 0.5], frequency.most)
    return tile


def _colour(count: NDArray[np.float64], most: int) -> Picture:
    """Return the colours of numbers of participants, shape (n, 3)."""
    step = np.clip((count - 1) / max(most - 1, 1), 0, 1) * (len(COLOURS) - 1)
    lower = np.minimum(step.astype(int), len(COLOURS) - 2)
    part = (step - lower)[:, None]
    mixed = COLOURS[lower] * (1 - part) + COLOURS[lower + 1] * part
    colours: Picture = np.rint(mixed).astype(np.uint8)
    return colours


def _legend(
    picture: Picture, frequency: Frequency, total_width: int, total_height: int
) -> list[Text]:
    left, width, middle = 96, 140, total_height + canvas.FOOTER // 2
    ramp = np.linspace(1, max(frequency.most, 1), width)
    picture[middle - 5 : middle + 5, left : left + width] = _colour(ramp, frequency.most)
    most = f"{frequency.most} of {frequency.participants}"
    return [
        Text(left - 8, middle, "1 participant", "rm", canvas.CLEAR),
        Text(left + width + 8, middle, most, "lm", canvas.CLEAR),
        Text(total_width - 4, middle, "left is on the right", "rm"),
    ]


def _template(frequency: Frequency) -> Volume | None:
    """Return the embedded template if it has the grid of the map; download nothing."""
    if (frequency.space, frequency.resolution) != (EMBEDDED, 1):
        return None
    volume = to_ras(load_template().volume)
    return volume if volume.shape == to_ras(frequency.share).shape else None
