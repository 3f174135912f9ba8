"""Draw the pictures of docs/explanation/synthetic_images.md.

    python docs/recipes/draw_made_images.py COHORT HEADS [OUTPUT_FOLDER]

COHORT is the folder ``cohort/`` of a training with the Ljubljana patients ``sub-lj07``,
``sub-lj19`` and ``sub-lj26`` (3D-MR-MS; Lesjak et al. 2018, doi:10.1007/s12021-017-9348-7, CC-BY;
https://creativecommons.org/licenses/by/4.0), HEADS its folder ``heads/``. Nobody else's image is
drawn. The same input gives the same pictures.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from bids_msseg.cascade.augment import SubImage
from bids_msseg.cascade.generation import Census, MakePlan, find_horns, make, take_census
from bids_msseg.cascade.heads import Head, Tissue, load_head
from bids_msseg.cascade.pasting import fill_bank, paste_some
from bids_msseg.cascade.patches import LabelledVisit, cut
from bids_msseg.cascade.stages import load_visit

Array = NDArray[np.float32]
WINDOWS = ((-2.8, 2.8), (-2.6, 2.2), (-2.2, 3.6))
CONTRASTS = ("FLAIR", "T1w", "T2w", "lesion")
OUTLINE = (255, 196, 0)
INK, PAPER, BAR = (235, 235, 235), (0, 0, 0), 18
PLEXUS = 1
"""Which of a head's sets of lesions and choroid plexus is drawn."""
NO_FAULTS = replace(
    MakePlan(),
    any_contrast=0.0,
    halo=0.0,
    flow=0.0,
    patchy=0.0,
    mask_fault=0.0,
    misplaced=0.0,
    margin_mm=(0.5, 0.5),
    blur_mm=(0.55, 0.55),
    texture=0.04,
)


def grey(image: Array, window: tuple[float, float]) -> NDArray[np.uint8]:
    """Turn a slice, first axis to the right and second to the front, into a picture."""
    low, high = window
    scaled = np.clip((image - low) / (high - low), 0, 1)
    # patients' right is on the viewer's left
    return np.rint(255 * scaled[::-1].T[::-1]).astype(np.uint8)


def tile(image: Array, window: tuple[float, float], zoom: int) -> Image.Image:
    """Draw one slice."""
    small = Image.fromarray(grey(image, window)).convert("RGB")
    return small.resize((small.width * zoom, small.height * zoom), Image.Resampling.BICUBIC)


def outline(picture: Image.Image, share: Array, zoom: int) -> Image.Image:
    """Draw the border of a slice of truth, where half of the voxel is lesion."""
    inside = np.kron(grey(share, (0, 1)) >= 128, np.ones((zoom, zoom), bool))
    border = inside.copy()
    border[1:-1, 1:-1] &= ~(
        inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    )
    drawn = np.array(picture)
    drawn[border] = OUTLINE
    return Image.fromarray(drawn)


def sheet(rows: Sequence[tuple[str, Sequence[Image.Image]]], heads: Sequence[str]) -> Image.Image:
    """Lay pictures out in rows with a title each."""
    wide, high = rows[0][1][0].size
    columns = max(len(pictures) for _, pictures in rows)
    page = Image.new("RGB", (columns * (wide + 2), len(rows) * (high + BAR) + BAR), PAPER)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for column, text in enumerate(heads):
        draw.text((column * (wide + 2) + 4, 1), text, INK, font)
    for row, (title, pictures) in enumerate(rows):
        top = BAR + row * (high + BAR)
        draw.text((4, top + 1), title, OUTLINE, font)
        for column, picture in enumerate(pictures):
            page.paste(picture, (column * (wide + 2), top + BAR))
    return page


def contrasts(sample: SubImage, height: int, zoom: int) -> list[Image.Image]:
    """Draw three contrasts of one slice inside the brain, and the lesions on FLAIR."""
    brain = sample.brain[..., height].numpy() > 0
    tiles = [
        tile(np.where(brain, sample.images[c, ..., height].numpy(), -9), WINDOWS[c], zoom)
        for c in range(3)
    ]
    return [*tiles, outline(tiles[0], sample.maps[0, ..., height].numpy(), zoom)]


def real(visit: LabelledVisit, centre: Sequence[int], edge: int) -> SubImage:
    """Cut a cube out of a patient's images."""
    cube = (edge, edge, edge)
    return SubImage(
        torch.from_numpy(cut(visit.images, centre, cube, fill=-3.0).astype(np.float32)),
        torch.ones(3),
        torch.from_numpy(cut(visit.brain, centre, cube).astype(np.float32)),
        torch.from_numpy(cut(visit.truth, centre, cube).astype(np.float32))[None],
    )


@dataclass(frozen=True, slots=True)
class Workbench:
    """A head to make images of."""

    head: Head
    census: Census

    @classmethod
    def of(cls, path: Path) -> Workbench:
        """Read a prepared head."""
        head = load_head(path)
        return cls(head, take_census(head))

    def make(
        self, number: int, centre: Sequence[int], edge: int, plan: MakePlan, seed: int
    ) -> SubImage:
        """Make a cube around a voxel."""
        rng = np.random.default_rng(seed)
        return make(self.head, self.census, number, centre, edge, plan, rng)

    def bare(self) -> Workbench:
        """Leave the lesions out."""
        draws = tuple(replace(one, fraction=one.fraction * 0) for one in self.head.draws)
        return replace(self, head=replace(self.head, draws=draws))


def busiest(truth: NDArray[np.floating]) -> list[int]:
    """Find the axial slice with most lesion, and the middle of the image."""
    height = int(np.argmax(truth.astype(np.float32).sum((0, 1))))
    return [truth.shape[0] // 2, truth.shape[1] // 2, height]


def draw_side_by_side(
    visits: Sequence[LabelledVisit], benches: Sequence[Workbench]
) -> Image.Image:
    """Real patients above, made images below."""
    edge, zoom = 168, 1
    rows = []
    for visit in visits:
        sample = real(visit, busiest(visit.truth), edge)
        title = f"real: {visit.name}, Ljubljana (Lesjak et al. 2018, CC-BY)"
        rows.append((title, contrasts(sample, edge // 2, zoom)))
    for number, (bench, draw, seed) in enumerate(zip(benches, (0, 3, 1), (1, 4, 9), strict=False)):
        truth = np.zeros(bench.head.tissue.shape, np.float32)
        one = bench.head.draws[draw]
        truth.ravel()[one.voxels] = one.fraction
        plan = replace(MakePlan(), any_contrast=float(number == 2), mask_fault=0.0)
        sample = bench.make(draw, busiest(truth), edge, plan, seed)
        order = "tissues in any order" if number == 2 else "tissues in their usual order"
        title = f"made: {bench.head.name}, {order}"
        rows.append((title, contrasts(sample, edge // 2, zoom)))
    return sheet(rows, CONTRASTS)


@dataclass(frozen=True, slots=True)
class LookAlike:
    """What is bright in FLAIR and no lesion, and how to have it made for sure.

    Attributes
    ----------
    title : str
    centre : tuple of int
        Voxel in the middle of the picture.
    plan : MakePlan
        With it.
    without : MakePlan or None
        Without it; None where it is there in every head.
    seed : int
    """

    title: str
    centre: tuple[int, int, int]
    plan: MakePlan
    without: MakePlan | None
    seed: int


def middle_of(voxels: NDArray[np.bool_]) -> tuple[int, int, int]:
    """Find the voxel in the middle of the axial slice with most of them."""
    height = int(np.argmax(voxels.sum((0, 1))))
    x, y = (round(float(np.median(axis))) for axis in np.nonzero(voxels[..., height]))
    return x, y, height


def look_alikes(bench: Workbench) -> list[LookAlike]:
    """List all kinds, each where it is seen in this head."""
    head = bench.head
    tissue, plain = head.tissue, NO_FAULTS
    # grain comes after the caps' random numbers and would differ
    still = replace(plain, texture=0.0)
    plexus = np.zeros(tissue.shape, bool)
    plexus.ravel()[head.draws[PLEXUS].choroid] = True
    horns = find_horns(head)
    front = (int(horns[[0, 2], 0].mean()), int(horns[0, 1]) - 10, int(horns[0, 2]))
    back = (int(horns[[1, 3], 0].mean()), int(horns[1, 1]) + 12, int(horns[1, 2]))
    x, y, z = (int(value) for value in horns.mean(0))
    body = (x, y, z + 8)
    cistern = middle_of((tissue == Tissue.FLUID) & (head.rim == 0) & _low(bench))
    ridge = middle_of((tissue == Tissue.CORTEX) & (np.arange(tissue.shape[2]) > body[2] + 14))
    return [
        LookAlike("septum", middle_of(tissue == Tissue.SEPTUM), plain, None, 8),
        LookAlike("choroid plexus", middle_of(plexus), plain, None, 13),
        LookAlike("halo", body, replace(plain, halo=0.4), plain, 4),
        LookAlike("caps, frontal", front, replace(still, caps=0.6), still, 3),
        LookAlike("caps, occipital", back, replace(still, caps=0.6), still, 1),
        LookAlike("flow in fluid", cistern, replace(plain, flow=0.9), plain, 2),
        LookAlike("uneven cortex", ridge, replace(plain, patchy=0.12), plain, 5),
    ]


def _low(bench: Workbench) -> NDArray[np.bool_]:
    tissue = bench.head.tissue
    below = np.nonzero(tissue == Tissue.BRAINSTEM)[2]
    return np.asarray(np.abs(np.arange(tissue.shape[2]) - np.median(below)) < 12)


def draw_mimics(bench: Workbench) -> Image.Image:
    """One row a kind: FLAIR with it, without it, and what it adds."""
    edge, zoom = 84, 2
    rows = []
    for kind in look_alikes(bench):
        flair = _inside(bench, kind, kind.plan, edge)
        pictures = [tile(flair, WINDOWS[0], zoom)]
        if kind.without is None:
            tissue = Tissue.SEPTUM if kind.title == "septum" else Tissue.CHOROID
            pictures.append(outline(pictures[0], _where(bench, kind, tissue, edge), zoom))
        else:
            without = _inside(bench, kind, kind.without, edge)
            pictures.append(tile(without, WINDOWS[0], zoom))
            pictures.append(tile(flair - without, (-0.5, 1.5), zoom))
        rows.append((kind.title, pictures))
    half = (len(rows) + 1) // 2
    sides = [
        sheet(part, ("with", "without / where", "added")) for part in (rows[:half], rows[half:])
    ]
    return beside(sides)


def _inside(bench: Workbench, kind: LookAlike, plan: MakePlan, edge: int) -> Array:
    sample = bench.make(PLEXUS, kind.centre, edge, plan, kind.seed)
    height = edge // 2
    brain = sample.brain[..., height].numpy() > 0
    return np.where(brain, sample.images[0, ..., height].numpy(), np.float32(-9))


def _where(bench: Workbench, kind: LookAlike, tissue: Tissue, edge: int) -> Array:
    whole = bench.head.tissue.copy()
    whole.ravel()[bench.head.draws[PLEXUS].choroid] = Tissue.CHOROID
    found = cut(whole, kind.centre, (edge, edge, edge)) == tissue
    return found[..., edge // 2].astype(np.float32)


def beside(sides: Sequence[Image.Image]) -> Image.Image:
    """Put pictures beside each other."""
    page = Image.new("RGB", (sum(s.width for s in sides) + 12, max(s.height for s in sides)))
    left = 0
    for side in sides:
        page.paste(side, (left, 0))
        left += side.width + 12
    return page


def draw_pasting(
    source: LabelledVisit, target: LabelledVisit, seeds: Sequence[int]
) -> Image.Image:
    """Lesions of one patient in another: before, after, truth."""
    edge, zoom = 72, 2
    bank = fill_bank([source])
    rows = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        places = np.argwhere(target.brain & (target.images[1] > 0.7))
        centre = places[int(rng.integers(len(places)))].tolist()
        before = real(target, centre, edge)
        after = paste_some(before, bank, rng, thick=False)
        new = after.maps[0] - before.maps[0]
        height = int(new.sum((0, 1)).argmax())
        title = f"{source.name} in {target.name}, "
        rows.append((title + "before", contrasts(before, height, zoom)))
        rows.append((title + "after", contrasts(after, height, zoom)))
    return sheet(rows, CONTRASTS)


def main(cohort: Path, heads: Path, output: Path) -> None:
    """Draw all pictures."""
    torch.set_num_threads(1)
    visits = {name: load_visit(cohort / f"sub-{name}.npz") for name in ("lj07", "lj19", "lj26")}
    benches = [Workbench.of(heads / f"head{number:02d}.npz") for number in (3, 7, 12)]
    pictures = {
        "made_images": draw_side_by_side([visits["lj19"], visits["lj26"]], benches),
        "look_alikes": draw_mimics(benches[1].bare()),
        "pasted_lesions": draw_pasting(visits["lj07"], visits["lj26"], (1, 2, 3)),
    }
    output.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        picture.save(output / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main(*map(Path, (*sys.argv[1:3], *(sys.argv[3:4] or ["docs/figures"]))))
