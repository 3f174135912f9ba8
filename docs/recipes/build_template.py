"""Make the embedded template from the images in nilearn's wheel.

    python docs/recipes/build_template.py [OUTPUT_FOLDER]

Needs nilearn and scipy. Writes the images of the TemplateFlow folder ``tpl-MNI152NLin2009aSym``:
brain-only T1w, grey and white matter probabilities, brain mask, and the map of regions. The same
nilearn gives the same bytes.

The regions come from the template's own tissues and from anatomy written down here as points in
MNI152 mm; no other atlas goes in. Three times, two sets of points flood the brain and meet where
the way between them costs most (multi-source shortest paths; Dijkstra 1959):

1. Infratentorial against supratentorial. Fluid is costly, so the fronts meet in the tentorium and
   the cisterns around the midbrain. Brainstem and cerebrum are one tissue: there the border is the
   plane from the mammillary bodies to the posterior commissure.
2. Ventricles against sulci and cisterns. Tissue is costly. Kept where more than a quarter of a
   voxel is fluid, because the average of 152 heads blurs the ependyma.
3. Deep grey nuclei against cortex (hippocampus and amygdala count as cortex). White matter and
   fluid are costly, so the fronts meet in the extreme capsule between putamen and insula.
"""

from __future__ import annotations

import gzip
import sys
from importlib import resources
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra

NAME = "MNI152NLin2009aSym"
MNI_CODE = 4
VENTRICLE, CORTEX, INFRATENTORIAL, OTHER = 1, 2, 3, 4
NAMES = {
    VENTRICLE: "lateral and third ventricle",
    CORTEX: "cortex and the fluid on it",
    INFRATENTORIAL: "brainstem and cerebellum with the fluid in and around them",
    OTHER: "other supratentorial tissue",
}
OBSTACLE = 30.0
MIN_FLUID = 64
SURFACE_MM = {"cistern": 12.0, "cortex": 9.0}

Point = tuple[float, float, float]

# centres of small balls in MNI152 mm, given for the right side and mirrored to the left
BRAINSTEM_CEREBELLUM: tuple[Point, ...] = (
    (0, -28, -30), (0, -35, -50), (0, -24, -15),  # pons, medulla, midbrain
    (0, -58, -20), (0, -65, -35), (10, -75, -35), (20, -40, -28),  # vermis, peduncle
    (15, -60, -30), (30, -65, -40), (45, -60, -40),  # hemisphere
)  # fmt: skip
CEREBRUM: tuple[Point, ...] = (
    (0, -10, 8), (30, 0, 30), (25, 30, -15), (20, -90, 0), (30, -70, 0), (40, -70, -8),
    (20, -75, -8), (12, -60, 10), (10, -85, 0), (15, -45, -3),  # occipital, lingual
    (40, -20, -20), (50, -40, -15), (45, -50, -12), (34, -50, -14), (25, -55, -5),  # fusiform
    (30, -8, -28), (25, -30, -12), (24, -38, -13), (20, -30, -14),  # hippocampus and its gyrus
)  # fmt: skip
VENTRICLES: tuple[Point, ...] = (
    (9, 22, 4), (7, 15, 8), (10, 0, 18), (14, -20, 20), (20, -35, 15), (24, -42, 8), (26, -50, 6),
)  # fmt: skip
NARROW_VENTRICLES: tuple[Point, ...] = (
    (32, -25, -11), (30, -14, -17),  # temporal horn
    (0, -5, -4), (0, -12, 2), (0, -20, 4),  # third ventricle
)  # fmt: skip
CISTERNS: tuple[Point, ...] = (
    (0, -36, 4), (0, -40, 12), (0, -38, 0), (12, -33, -2), (18, -32, -8),  # quadrigeminal, ambient
    (0, 0, -18), (0, -12, -17), (10, -2, -20), (38, 0, 0), (36, 10, -5),  # suprasellar, Sylvian
)  # fmt: skip
NUCLEI: tuple[Point, ...] = (
    (8, -10, 6), (10, -20, 8), (15, -27, 4),  # thalamus
    (12, 14, 8), (14, 5, 16), (16, -8, 22), (10, 12, -8),  # caudate, accumbens
    (26, 5, 2), (28, -8, 3), (22, 10, 2), (24, 14, -4), (18, -4, -1),  # putamen, pallidum
    (6, -6, -8), (10, -20, -6), (12, -12, -6),  # below the thalamus
)  # fmt: skip
DEEP_CORTEX: tuple[Point, ...] = (
    (38, 5, 0), (38, -10, 5), (36, 15, -2), (40, -5, -5), (36, -20, 10), (34, 22, 4),  # insula
    (28, -20, -14), (30, -30, -8), (24, -10, -20), (24, -4, -20),  # hippocampus, amygdala
    (4, -45, 25), (4, 20, 28), (4, 35, 10), (5, -5, 40), (20, -35, -4),  # cingulate
    (18, 15, -18), (10, 20, -18), (12, -70, 8), (6, -85, 5),  # orbitofrontal, calcarine
)  # fmt: skip


def main(folder: Path) -> None:
    """Write all files of the template."""
    folder.mkdir(parents=True, exist_ok=True)
    t1w, affine = nilearn_image("t1")
    grey, _ = nilearn_image("gm")
    white, _ = nilearn_image("wm")
    brain = t1w > 0
    write(folder, "desc-brain_T1w", t1w, affine)
    write(folder, "label-GM_probseg", grey, affine, slope=1 / 255)
    write(folder, "label-WM_probseg", white, affine, slope=1 / 255)
    write(folder, "desc-brain_mask", brain.astype(np.uint8), affine)
    write(folder, "seg-regions_dseg", regions(brain, grey, white, affine), affine)
    table = folder / f"tpl-{NAME}_res-1_seg-regions_dseg.tsv"
    rows = [f"{number}\t{name}" for number, name in NAMES.items()]
    table.write_text("\n".join(["index\tname", *rows, ""]), encoding="utf-8")


def nilearn_image(kind: str) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Read one of the three images, values 0-255, shape (197, 233, 189)."""
    name = f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz"
    image = nib.load(str(resources.files("nilearn.datasets") / "data" / name))
    return np.asarray(image.dataobj, np.uint8), image.affine


def regions(
    brain: NDArray[np.bool_],
    grey: NDArray[np.uint8],
    white: NDArray[np.uint8],
    affine: NDArray[np.float64],
) -> NDArray[np.uint8]:
    """Label every voxel of the brain; see the module's description for the rules."""
    tissue = np.minimum(grey.astype(float) + white, 255)
    below = infratentorial(brain, tissue, affine)
    upper = brain & ~below
    depth = ndimage.distance_transform_edt(brain, np.linalg.norm(affine[:3, :3], axis=0))
    ventricle, hollow = ventricles(upper, tissue, depth, affine)
    rest = upper & ~ventricle
    nuclei = balls(NUCLEI, 2, affine, brain.shape)
    cortex = (depth < SURFACE_MM["cortex"]) | balls(DEEP_CORTEX, 2, affine, brain.shape)
    deep = flood(1 - grey / 255, nuclei, cortex, rest)
    sulci = (tissue < 128) & ~hollow
    labels = np.zeros(brain.shape, np.uint8)
    labels[upper] = OTHER
    labels[rest & (((grey >= white) & ~deep) | sulci)] = CORTEX
    labels[ventricle] = VENTRICLE
    labels[below] = INFRATENTORIAL
    return labels


def infratentorial(
    brain: NDArray[np.bool_], tissue: NDArray[np.float64], affine: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Brainstem, cerebellum and the fluid around and within them."""
    x, y, z = world(brain.shape, affine)
    # mammillary bodies (y -10, z -13) to posterior commissure (y -25, z -2)
    plane = -13.0 - 0.73 * (y + 10.0)
    central = np.abs(x) <= 22
    diencephalon = (z > plane) & central & (y > -38) & (y < 5)
    midbrain = (z <= plane - 2) & (z > -18) & (np.abs(x) <= 8) & (y >= -34) & (y <= -18)
    seeds = balls(BRAINSTEM_CEREBELLUM, 5, affine, brain.shape) | midbrain
    others = balls(CEREBRUM, 3, affine, brain.shape) | diencephalon | (z > 20)
    return flood(1 - tissue / 255, seeds, others, brain)


def ventricles(
    upper: NDArray[np.bool_],
    tissue: NDArray[np.float64],
    depth: NDArray[np.float64],
    affine: NDArray[np.float64],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Lateral and third ventricle, and all that is nearer to them than to other fluid."""
    shape = upper.shape
    seeds = balls(VENTRICLES, 2, affine, shape) | balls(NARROW_VENTRICLES, 1, affine, shape)
    outer = (depth < SURFACE_MM["cistern"]) | balls(CISTERNS, 2, affine, shape)
    hollow = flood(tissue / 255, seeds, outer, upper)
    return hollow & (255 - tissue > MIN_FLUID), hollow


def flood(
    obstacle: NDArray[np.float64],
    seeds: NDArray[np.bool_],
    others: NDArray[np.bool_],
    inside: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Voxels that are nearer to ``seeds`` than to ``others`` by the cheapest way inside.

    A step costs 1 in the open and up to 31 through an obstacle of height 1.
    """
    count = int(inside.sum())
    index = np.full(inside.shape, -1, np.int32)
    index[inside] = np.arange(count)
    graph = neighbours(index, 1 + OBSTACLE * obstacle**2, count)
    wanted = seeds[inside]
    starts = np.flatnonzero(wanted | others[inside])
    _, _, origin = dijkstra(
        graph, directed=False, indices=starts, min_only=True, return_predecessors=True
    )
    nearer = np.zeros(inside.shape, bool)
    nearer[inside] = wanted[origin]
    return nearer


def neighbours(index: NDArray[np.int32], cost: NDArray[np.float64], count: int) -> coo_array:
    """Graph of face neighbours, each step at the mean cost of its two voxels."""
    rows, columns, weights = [], [], []
    for axis in range(3):
        one, other = (
            tuple(part if a == axis else slice(None) for a in range(3))
            for part in (slice(None, -1), slice(1, None))
        )
        both = (index[one] >= 0) & (index[other] >= 0)
        rows.append(index[one][both])
        columns.append(index[other][both])
        weights.append((cost[one] + cost[other])[both] / 2)
    places = (np.concatenate(rows), np.concatenate(columns))
    return coo_array((np.concatenate(weights), places), shape=(count, count)).tocsr()


def balls(
    points: tuple[Point, ...],
    radius: float,
    affine: NDArray[np.float64],
    shape: tuple[int, ...],
) -> NDArray[np.bool_]:
    """Union of balls of a radius in mm around points and their mirror images."""
    x, y, z = world(shape, affine)
    found = np.zeros(shape, bool)
    for px, py, pz in points:
        for side in (px, -px):
            found |= (x - side) ** 2 + (y - py) ** 2 + (z - pz) ** 2 <= radius**2
    return found


def world(shape: tuple[int, ...], affine: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """World x, y, z in mm, shaped to broadcast; the grid's axes are the world's."""
    lines = [np.arange(n) * affine[a, a] + affine[a, 3] for a, n in enumerate(shape)]
    return list(np.meshgrid(*lines, indexing="ij", sparse=True))


def write(
    folder: Path,
    ending: str,
    data: NDArray[np.uint8],
    affine: NDArray[np.float64],
    slope: float = 1.0,
) -> None:
    """Write one uint8 image, both orientations set and marked as MNI space."""
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm")
    image.header.set_slope_inter(slope, 0.0)
    image.set_qform(affine, MNI_CODE)
    image.set_sform(affine, MNI_CODE)
    content = image.to_bytes()
    path = folder / f"tpl-{NAME}_res-1_{ending}.nii.gz"
    path.write_bytes(compressed(content))


def compressed(content: bytes) -> bytes:
    """Compress without a time stamp, as small as gzip gets."""
    return gzip.compress(content, compresslevel=9, mtime=0)


if __name__ == "__main__":
    default = Path(__file__).parents[2] / "bids_msseg" / "data" / "template" / f"tpl-{NAME}"
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else default)
