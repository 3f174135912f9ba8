"""Label maps of whole heads with lesions, from which synthetic images are made.

Each has 27 sets of lesions: 10 of parametric shape, 12 of the MS-MIST bank near their original
positions, 2 without lesions, and 3 of parametric shape with periventricular bands.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.errors import DataError, NoInputError
from bids_msseg.imaging.header import check_header
from bids_msseg.imaging.registration.affine import register_affine
from bids_msseg.imaging.template import load_template
from bids_msseg.imaging.volume import Volume, as_ras, load_volume
from bids_msseg.training.synthesis.bands import add_bands
from bids_msseg.training.synthesis.choroid import (
    ChoroidTerrain,
    place_choroid,
    prepare_choroid_terrain,
)
from bids_msseg.training.synthesis.tissues import (
    BROAD_STATISTICS,
    EXTRA_CEREBRAL,
    FIRST_EXTRA,
    FISSURE,
    LATERAL,
    LESION_LABELS,
    LOAD_ML,
    LabelMap,
    LesionDraw,
    Tissue,
    brain_distance,
    draw_lesions,
    lesion_terrain,
    load_label_map,
    save_label_map,
    sparse_lesions,
    tissue_classes,
    ventricle_distance,
)

LOGGER = logging.getLogger("bids_msseg")
Affine = NDArray[np.float64]
Array = NDArray[np.float32]

MARGIN_MM = 16
"""Scalp, fat and orbits within this distance of the brain are kept."""
PARAMETRIC_SETS, BANK_SETS, EMPTY_SETS, BAND_SETS = 10, 12, 2, 3
_PSEUDO_T1W: Mapping[Tissue, float] = {
    Tissue.WHITE: 1.0,
    Tissue.CEREBELLAR_WHITE: 1.0,
    Tissue.BRAINSTEM: 0.95,
    Tissue.PALLIDUM: 0.95,
    Tissue.THALAMUS: 0.85,
    Tissue.VENTRAL_DC: 0.9,
    Tissue.SEPTUM: 0.8,
    Tissue.VENTRICLE: 0.2,
    Tissue.FLUID: 0.2,
}
_HOSTS = (
    Tissue.WHITE,
    Tissue.CEREBELLAR_WHITE,
    Tissue.BRAINSTEM,
    Tissue.THALAMUS,
    Tissue.PALLIDUM,
    Tissue.VENTRAL_DC,
)
"""Tissues that a lesion of the bank may lie in."""
_MIN_HOST_SHARE = 0.5
"""Share of a bank lesion that must fall into host tissue."""


@dataclass(frozen=True, slots=True)
class LesionBank:
    """Manual lesion masks in MNI152 space, packed as boxes of bits."""

    offset: NDArray[np.int16]  # (N, 3), in voxels
    shape: NDArray[np.int16]  # (N, 3), in voxels
    start: NDArray[np.int64]  # box n is bits[start[n]:start[n + 1]]
    bits: NDArray[np.uint8]  # of numpy.packbits in C order
    volume: NDArray[np.int32]  # mm³
    affine: Affine  # voxels to world mm

    def mask(self, number: int) -> NDArray[np.bool_]:
        """Unpack the mask of one lesion."""
        x, y, z = (int(edge) for edge in self.shape[number])
        packed = self.bits[self.start[number] : self.start[number + 1]]
        return np.unpackbits(packed, count=x * y * z).reshape(x, y, z).astype(bool)


def read_lesion_bank(path: Path) -> LesionBank:
    """Read ``lesions.npz`` of the MS-MIST bank (Senra Filho et al. 2019); DataError if damaged."""
    if not path.is_file():
        raise NoInputError(f"the lesion bank {path} does not exist", hint="correct --lesion-bank")
    try:
        with np.load(path, allow_pickle=False) as file:
            return LesionBank(
                file["offset"],
                file["shape"],
                file["start"],
                file["bits"],
                file["volume_mm3"],
                file["affine"],
            )
    except (OSError, EOFError, LookupError, TypeError, ValueError, BadZipFile) as error:
        raise DataError(
            f"{path} is not a lesion bank: {error}", hint="use lesions.npz of the MS-MIST bank"
        ) from error


def prepare_label_map(path: Path, bank: LesionBank | None, rng: np.random.Generator) -> LabelMap:
    """Prepare a label map (1 mm, FreeSurfer labels, 502-530 outside the brain) with lesions."""
    volume = as_ras(load_volume(path))
    labels = np.rint(volume.data).astype(np.int32)
    labels = np.where(np.isin(labels, LESION_LABELS), 2, labels)
    box = _around_brain(labels)
    labels, affine = labels[box], _shift_affine(volume.affine, box)
    tissue = tissue_classes(labels)
    for number, code in enumerate(EXTRA_CEREBRAL):
        tissue[labels == code] = FIRST_EXTRA + number
    brain_only = np.where(tissue >= FIRST_EXTRA, np.uint8(Tissue.OUTSIDE), tissue)
    lateral = np.isin(labels, [code for side in LATERAL for code in side])
    plexus = prepare_choroid_terrain(lateral, np.isin(labels, FISSURE))
    terrain = lesion_terrain(brain_only)
    sets = [draw_lesions(rng, terrain, plexus, BROAD_STATISTICS) for _ in range(PARAMETRIC_SETS)]
    if bank is not None:
        to_head = register_to_template(Volume(brain_only, affine))
        for _ in range(BANK_SETS):
            sets.append(place_bank_lesions(rng, bank, brain_only, affine, to_head, plexus))
    empty = np.zeros(0)
    for _ in range(EMPTY_SETS):
        sets.append(
            LesionDraw(
                empty.astype(np.int32),
                empty.astype(np.uint8),
                empty.astype(np.int16),
                place_choroid(rng, plexus),
            )
        )
    halo = ventricle_distance(lateral)
    for _ in range(BAND_SETS):
        lesions = draw_lesions(rng, terrain, plexus, BROAD_STATISTICS)
        sets.append(add_bands(rng, brain_only, halo, lesions))
    return LabelMap(_stem(path), tissue, brain_distance(brain_only), halo, tuple(sets))


def _around_brain(labels: NDArray[np.int32]) -> tuple[slice, slice, slice]:
    inside = (labels > 0) & (labels < 500) & (labels != 24)
    x, y, z = (
        slice(max(int(hits[0]) - MARGIN_MM, 0), int(hits[-1]) + 1 + MARGIN_MM)
        for hits in (np.flatnonzero(inside.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1)))
    )
    return x, y, z


def _shift_affine(affine: Affine, box: tuple[slice, slice, slice]) -> Affine:
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ [side.start for side in box]
    return moved


def register_to_template(tissue: Volume) -> Affine:
    """Find the affine from template world mm to the label map's world mm."""
    pseudo_t1w = np.zeros(tissue.shape, np.float32)
    brain = np.ones(tissue.shape, bool)
    for kind in Tissue:
        region = tissue.data == kind
        if kind in (Tissue.AIR, Tissue.OUTSIDE, Tissue.VESSEL, Tissue.FLUID):
            brain &= ~region
        pseudo_t1w[region] = _PSEUDO_T1W.get(kind, 0.65)
    brain = ndimage.binary_closing(brain, iterations=4)
    template = load_template()
    registration = register_affine(
        Volume(np.where(brain, pseudo_t1w, 0).astype(np.float32), tissue.affine),
        template.volume,
        moving_mask=brain,
        fixed_mask=template.mask,
        threads=2,
    )
    if registration.failure_reason:
        LOGGER.warning("lesions may be placed wrongly: %s", registration.failure_reason)
    return registration.affine


def place_bank_lesions(
    rng: np.random.Generator,
    bank: LesionBank,
    tissue: NDArray[np.uint8],
    affine: Affine,
    to_head: Affine,
    plexus: ChoroidTerrain | None,
) -> LesionDraw:
    """Place bank lesions near their template positions until a random load is reached."""
    load = 1000 * float(np.exp(rng.uniform(*np.log(LOAD_ML))))
    host = np.isin(tissue, _HOSTS)
    near = ndimage.binary_dilation(host) & (tissue == Tissue.CORTEX)
    allowed = np.where(host, np.float32(1), np.where(near, np.float32(0.6), np.float32(0)))
    soft = np.zeros(tissue.shape, np.float32)
    owner = np.zeros(tissue.shape, np.int32)
    bank_to_head = np.linalg.inv(affine) @ to_head @ bank.affine
    count = 0
    fitting = np.flatnonzero(bank.volume <= max(1.2 * load, 60))
    for _ in range(150):
        if soft.sum() >= load:
            break
        number = int(fitting[int(rng.integers(len(fitting)))])
        placed = _transform_bank_lesion(rng, bank, number, bank_to_head, tissue.shape)
        if placed is None:
            continue
        corner, share = placed
        region = tuple(slice(a, a + n) for a, n in zip(corner, share.shape, strict=True))
        allowed_share = share * allowed[region]
        if allowed_share.sum() < _MIN_HOST_SHARE * share.sum() or allowed_share.max() < 0.3:
            continue
        count += 1
        owner[region][(allowed_share >= 0.5) & (owner[region] == 0)] = count
        soft[region] = np.maximum(soft[region], allowed_share)
    return sparse_lesions(owner, soft, place_choroid(rng, plexus))


def _transform_bank_lesion(
    rng: np.random.Generator,
    bank: LesionBank,
    number: int,
    bank_to_head: Affine,
    shape: tuple[int, ...],
) -> tuple[NDArray[np.int64], Array] | None:
    """Transform one bank lesion into a head, with an additional small random affine."""
    jitter = np.eye(4)
    jitter[:3, :3] = np.diag(rng.uniform(0.85, 1.15, 3)) + rng.normal(0, 0.08, (3, 3))
    middle = bank.offset[number] + bank.shape[number] / 2
    jitter[:3, 3] = middle - jitter[:3, :3] @ middle + rng.normal(0, 2.0, 3)
    if rng.random() < 0.5:
        # the template is symmetric about x = 0 mm
        mirror = np.linalg.inv(bank.affine) @ np.diag([-1.0, 1, 1, 1]) @ bank.affine
        jitter = mirror @ jitter
    matrix = bank_to_head @ jitter
    low, high = bank.offset[number] - 2.0, bank.offset[number] + bank.shape[number] + 1.0
    ends = np.array(np.meshgrid(*zip(low, high, strict=True))).reshape(3, -1)
    moved = matrix[:3, :3] @ ends + matrix[:3, 3:]
    first = np.maximum(np.floor(moved.min(1)).astype(int), 0)
    last = np.minimum(np.ceil(moved.max(1)).astype(int) + 1, shape)
    if (last - first < 1).any():
        return None
    back = np.linalg.inv(matrix)
    offset = back[:3, :3] @ first + back[:3, 3] - bank.offset[number]
    share = ndimage.affine_transform(
        bank.mask(number).astype(np.float32),
        back[:3, :3],
        offset,
        output_shape=tuple(last - first),
        order=1,
    )
    share = ndimage.gaussian_filter(share, float(rng.uniform(0.3, 0.8)))
    return (first, share) if share.max() > 0.3 else None


def prepare_label_maps(folder: Path, bank_path: Path | None, out: Path, *, seed: int = 11) -> None:
    """Prepare every ``*_dseg.nii*`` of a folder; skip those already in ``out``."""
    paths = find_label_maps(folder)
    out.mkdir(parents=True, exist_ok=True)
    bank = read_lesion_bank(bank_path) if bank_path else None
    for number, path in enumerate(paths):
        target = out / f"{_stem(path)}.npz"
        if not target.is_file():
            label_map = prepare_label_map(path, bank, np.random.default_rng((seed, number)))
            save_label_map(label_map, target)


def find_label_maps(folder: Path) -> tuple[Path, ...]:
    """List the ``*_dseg.nii*`` files of a folder; NoInputError if none, DataError if unusable."""
    paths = sorted(folder.glob("*_dseg.nii*"))
    if not paths:
        raise NoInputError(
            f"no label map (*_dseg.nii.gz) found in {folder}",
            hint="pass the folder that contains anatomy/*_dseg.nii.gz to --label-maps",
        )
    duplicates = [name for name, count in Counter(map(_stem, paths)).items() if count > 1]
    if duplicates:
        raise DataError(
            f"more than one label map is named {duplicates[0]}", hint="give each map a unique name"
        )
    for path in paths:
        spacing = check_header(path).spacing
        if not np.allclose(spacing, 1, atol=0.02):
            raise DataError(
                f"{path.name} has voxels of {' x '.join(f'{edge:g}' for edge in spacing)} mm",
                hint="resample it to 1 mm by nearest neighbour",
            )
    return tuple(paths)


def _stem(path: Path) -> str:
    return path.name.partition(".")[0].removesuffix("_dseg")


def read_label_maps(folder: Path) -> tuple[LabelMap, ...]:
    """Read what :func:`prepare_label_maps` wrote."""
    return tuple(load_label_map(path) for path in sorted(folder.glob("*.npz")))
