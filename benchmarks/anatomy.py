"""Dice of CNN-1's anatomy: ventricles, and tissues where a tissue map exists.

``python benchmarks/anatomy.py TRAIN_OUT BIDS_DIR [--tissue-maps FOLDER]``: TRAIN_OUT is what
``msseg-train`` wrote; the anatomy is that of networks which have not seen the patient
(``held-out/``, else ``unseen/`` of the starting network). Ventricles: the classes ventricle and
choroid plexus, at one half on the 1 mm grid, against ``label-ventricle`` masks. Tissues:
CSF, grey and white matter against ``<participant without sub->_dseg.nii.gz`` in FOLDER (1 CSF, 2
grey, 3 white, 4 lesion), which is registered to the visit first; voxels of lesions are left out.
The last line counts the visits in which choroid plexus is the most probable class of any voxel.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.imaging.normalise import working_grid
from bids_msseg.imaging.register import register_affine
from bids_msseg.imaging.resample import mask_onto, resample
from bids_msseg.imaging.volume import Affine, Volume, as_ras, load_volume
from bids_msseg.models.anatomy import Anatomy
from bids_msseg.models.brain_volumes import VENTRICLES
from bids_msseg.training.protocol import read_output

TISSUES = {
    "CSF": (1, (Anatomy.SULCAL_FLUID, *VENTRICLES)),
    "grey matter": (
        2,
        (
            Anatomy.CORTEX,
            Anatomy.DEEP_GREY,
            Anatomy.HIPPOCAMPUS_AMYGDALA,
            Anatomy.CEREBELLAR_CORTEX,
        ),
    ),
    "white matter": (3, (Anatomy.WHITE_MATTER, Anatomy.CEREBELLAR_WHITE, Anatomy.BRAINSTEM)),
}
LESION = 4
PSEUDO_T1W = np.array([0.0, 0.25, 0.6, 1.0, 0.8], np.float32)
"""Brightness of background, CSF, grey, white matter and lesion, to register a tissue map with."""


def read_anatomy(out: Path, visit: str) -> NDArray[np.float32]:
    """Read posteriors (classes, X / 2, Y / 2, Z / 2), from the network that has not seen it."""
    held = out / "held-out" / f"{visit}.npz"
    prediction, _ = read_output(held if held.is_file() else out / "unseen" / f"{visit}.npz")
    return prediction.anatomy.astype(np.float32)


def at_1_mm(coarse: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Interpolate a posterior of 2 mm linearly; its voxels are blocks of 2x2x2 of the grid."""
    axes = [(np.arange(edge) - 0.5) / 2 for edge in shape]
    grid = np.meshgrid(*axes, indexing="ij")
    fine: NDArray[np.float32] = ndimage.map_coordinates(coarse, grid, order=1, mode="nearest")
    return fine


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return 2 * np.count_nonzero(one & other) / max(np.count_nonzero(one) + other.sum(), 1)


def tissue_map(path: Path, t1w: Volume, shape: tuple[int, int, int], affine: Affine) -> NDArray:
    """Register a tissue map to the visit's T1w and bring it onto the working grid."""
    labels = as_ras(load_volume(path))
    codes = np.clip(np.rint(labels.data), 0, LESION).astype(np.int64)
    found = register_affine(
        labels.with_data(PSEUDO_T1W[codes]),
        t1w,
        moving_mask=codes > 0,
        fixed_mask=t1w.data > 0,
        threads=2,
    )
    print(f"{path.name}: mutual information {found.metric_after:.2f} {found.doubt}")
    shares = [
        resample(
            labels.with_data((codes == code).astype(np.float32)),
            shape,
            affine,
            transform=found.affine,
        ).data
        for code in range(LESION + 1)
    ]
    return np.argmax(shares, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("train_out", type=Path)
    parser.add_argument("bids_dir", type=Path)
    parser.add_argument("--tissue-maps", type=Path)
    options = parser.parse_args()
    manual = options.bids_dir / "derivatives" / "manual"
    figures: dict[str, list[float]] = {}
    plexus: list[bool] = []
    for mask in sorted(manual.glob("sub-*/**/*_space-FLAIR_desc-brain_mask.nii.gz")):
        visit = mask.name.partition("_space-")[0]
        shape, affine = working_grid(as_ras(load_volume(mask)))
        anatomy = read_anatomy(options.train_out, visit)
        plexus.append(bool((anatomy.argmax(0) == Anatomy.CHOROID_PLEXUS).any()))
        ventricle = mask.with_name(f"{visit}_space-FLAIR_label-ventricle_mask.nii.gz")
        if ventricle.is_file():
            truth = mask_onto(as_ras(load_volume(ventricle)), shape, affine)
            seen = at_1_mm(anatomy[list(VENTRICLES)].sum(0), shape) >= 0.5
            figures.setdefault("ventricles", []).append(dice(seen, truth))
            print(f"{visit}: ventricles {figures['ventricles'][-1]:.3f}", flush=True)
        name = visit.removeprefix("sub-").partition("_")[0]
        path = options.tissue_maps and options.tissue_maps / f"{name}_dseg.nii.gz"
        if path and path.is_file():
            t1w = as_ras(load_volume(next(options.bids_dir.glob(f"sub-{name}/**/*_T1w.nii.gz"))))
            truth = tissue_map(path, t1w, shape, affine)
            classes = np.stack([at_1_mm(one, shape) for one in anatomy]).argmax(0)
            inside = (truth > 0) & (truth < LESION)
            for tissue, (code, kinds) in TISSUES.items():
                value = dice(np.isin(classes, kinds) & inside, truth == code)
                figures.setdefault(tissue, []).append(value)
                print(f"{visit}: {tissue} {value:.3f}", flush=True)
    for what, values in figures.items():
        print(f"{what}: mean {np.mean(values):.3f}, n = {len(values)}")
    print(f"choroid plexus: found in {sum(plexus)} of {len(plexus)} visits")


if __name__ == "__main__":
    main()
