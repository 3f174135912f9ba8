"""A labelled cohort small enough to train on in seconds."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

EDGE = 32


def _save(path: Path, data: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, np.diag([-1.0, 1, 1, 1])), path)


@pytest.fixture(scope="session")
def labelled_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five participants of two sites; sub-02 has no T2w, sub-04 has two sessions."""
    root = tmp_path_factory.mktemp("cohort") / "raw"
    visits = ["sub-01", "sub-02", "sub-03", "sub-04/ses-1", "sub-04/ses-2", "sub-05"]
    distance = np.sqrt(sum((axis - EDGE / 2) ** 2 for axis in np.indices((EDGE,) * 3)))
    brain = distance < 0.42 * EDGE
    for number, visit in enumerate(visits):
        rng = np.random.default_rng(number)
        truth = np.zeros(brain.shape, np.uint8)
        for low in rng.integers(10, 20, (3, 3)):
            truth[tuple(slice(int(a), int(a) + 3) for a in low)] = 1
        stem = visit.replace("/", "_")
        for contrast, gain in (("FLAIR", 90), ("T1w", -40), ("T2w", 60)):
            if (visit, contrast) == ("sub-02", "T2w"):
                continue
            image = np.where(brain, 100 + float(gain) * truth + rng.normal(0, 8, brain.shape), 0)
            _save(root / visit / "anat" / f"{stem}_{contrast}.nii.gz", image.astype(np.float32))
        manual = root / "derivatives" / "manual" / visit / "anat" / f"{stem}_space-FLAIR"
        _save(Path(f"{manual}_label-L_mask.nii.gz"), truth)
        _save(Path(f"{manual}_desc-brain_mask.nii.gz"), brain.astype(np.uint8))
    description = {"Name": "toy", "BIDSVersion": "1.10.1", "DatasetType": "raw"}
    (root / "dataset_description.json").write_text(json.dumps(description))
    sites = "\n".join(f"sub-0{n}\t{'AB'[n % 2]}" for n in range(1, 6))
    (root / "participants.tsv").write_text(f"participant_id\tsite\n{sites}\n")
    return root
