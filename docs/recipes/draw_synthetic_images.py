"""Draw real and synthetic images of the pretraining beside each other.

usage: python docs/recipes/draw_synthetic_images.py COHORT LABEL_MAPS OUT.png

COHORT holds prepared visits and LABEL_MAPS prepared label maps (``*.npz``). Real images: one visit
of each site. Synthetic images: FLAIR, T1w and T2w of random heads, with the true lesions outlined
and the true anatomy.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from bids_msseg.models.anatomy import CLASSES
from bids_msseg.training.data.visits import load_visit
from bids_msseg.training.synthesis.dataset import SyntheticDataset
from bids_msseg.training.synthesis.label_maps import read_label_maps

REAL = ("sub-lj26", "sub-tz05", "sub-ct14_ses-1")
SYNTHETIC = (3, 8, 14, 21, 27)
SIZE = 160
WINDOW = {"cmap": "gray", "vmin": -2.5, "vmax": 3, "origin": "lower"}


def show(panels: np.ndarray, images: np.ndarray, share: np.ndarray, level: int) -> None:
    """Draw an axial slice of each contrast with the lesions outlined, and a sagittal one."""
    for channel, panel in enumerate(panels[:3]):
        panel.imshow(images[channel, :, :, level].T, **WINDOW)
        if share[:, :, level].max() > 0.5 > share[:, :, level].min():
            panel.contour(share[:, :, level].T, [0.5], colors="tab:red", linewidths=0.6)
    middle = images.shape[1] // 2 + 12
    panels[3].imshow(images[0, middle].T, **WINDOW)


def main() -> None:
    """Draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cohort", type=Path)
    parser.add_argument("label_maps", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    rows = len(REAL) + len(SYNTHETIC)
    figure, panels = plt.subplots(rows, 5, figsize=(10, 2.1 * rows), layout="constrained")
    for row, name in enumerate(REAL):
        visit = load_visit(options.cohort / f"{name}.npz")
        share = visit.truth.astype(np.float32)
        show(panels[row], visit.images.astype(np.float32), share, int(share.sum((0, 1)).argmax()))
        panels[row, 0].set_title(f"real: {name}", fontsize=8)
    data = SyntheticDataset(read_label_maps(options.label_maps), 12, size=SIZE)
    for row, index in enumerate(SYNTHETIC, start=len(REAL)):
        images, lesion, anatomy = (item.numpy() for item in data[index])
        counts = lesion[0].sum((0, 1))
        level = int(counts.argmax()) if counts.any() else SIZE // 2
        show(panels[row], images[:3], lesion[0], level)
        classes = anatomy.argmax(0)
        panels[row, 4].imshow(
            classes[:, :, level // 2].T, cmap="tab20", vmin=0, vmax=CLASSES, origin="lower"
        )
        panels[row, 0].set_title("synthetic", fontsize=8)
    for panel in panels.ravel():
        panel.axis("off")
    figure.savefig(options.out, dpi=90)


if __name__ == "__main__":
    main()
