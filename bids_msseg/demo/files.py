"""Names and files of the demo dataset: raw BIDS, and the ground truth as a derivative."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bids_msseg import __version__
from bids_msseg.bids.dataset import BIDS_VERSION, generator_names, read_description
from bids_msseg.bids.files import write_json, write_tsv
from bids_msseg.demo.scan import Grid, Protocol, write_mask
from bids_msseg.errors import CannotCreateError
from bids_msseg.imaging.template import embedded_directory
from bids_msseg.io.atomic import write_atomic

PROGRAM: Final = "msseg-demo"
TRUTH: Final = Path("derivatives", "truth")
TEMPLATE_DOI: Final = "doi:10.1016/j.neuroimage.2010.07.033"
AUTHORS: Final = ["contributors of bids_msseg", "authors of the ICBM 152 template"]
DESCRIPTIONS: Final[Mapping[str, dict[str, str]]] = {
    "label-L": {
        "Type": "Lesion",
        "Description": "Painted lesions (synthetic): voxels with at least half of the largest "
        "lesion fraction of their lesion",
    },
    "desc-brain": {
        "Type": "Brain",
        "Description": "Brain including CSF (synthetic): voxels at least half inside",
    },
}
# Echo time and repetition time in s, flip angle in degrees, of the sequences imitated.
TIMINGS: Final[Mapping[str, tuple[float, float, float]]] = {
    "FLAIR": (0.12, 9.0, 90.0),
    "T1w": (0.003, 2.0, 9.0),
    "T2w": (0.1, 5.0, 90.0),
}
README: Final = """# Synthetic demo of bids_msseg

Made by `msseg-demo` {version}, seed {seed}. **No patient has been scanned**: the anatomy is the
MNI152 template (ICBM 152 nonlinear 2009a symmetric, see LICENSE), deformed differently for each
participant, with painted multiple-sclerosis lesions, simulated contrasts, and, for some
participants, a synthetic head. True lesion and brain masks are in `derivatives/truth`.

Scores on these images show that a program works, not how well it works on patients.
"""
TRUTH_README: Final = """# Ground truth of the synthetic demo

Masks on the FLAIR grid of each visit: `label-L` the painted lesions, `desc-brain` the brain
including CSF. Unlike masks drawn by raters, they are exact: a voxel belongs to a lesion if its
lesion fraction is at least half of the largest fraction of any voxel of that lesion.
`msseg-demo score` compares the masks of a derivative dataset with them.
"""


@dataclass(frozen=True, slots=True)
class Participant:
    """Properties of one participant of the demo, numbered from 1."""

    number: int
    load: float  # lesion load of the first visit in mL
    sessions: int
    head: bool  # add a synthetic head around the brain
    contrasts: tuple[str, ...]

    @property
    def label(self) -> str:
        """Name as in ``sub-01``."""
        return f"sub-{self.number:02d}"


@dataclass(frozen=True, slots=True)
class VisitFiles:
    """File names of one visit in the dataset ``out``; ``session`` is like ``ses-1``, or None."""

    out: Path
    person: Participant
    session: str | None

    @property
    def folder(self) -> Path:
        """Folder of the images, relative to the dataset."""
        return Path(self.person.label, self.session or "", "anat")

    @property
    def prefix(self) -> str:
        """Prefix of the file names."""
        return "_".join(part for part in (self.person.label, self.session) if part)

    def image(self, contrast: str, extension: str = ".nii.gz") -> Path:
        """Return the path of an image or its sidecar, relative to the dataset."""
        return self.folder / f"{self.prefix}_{contrast}{extension}"

    def truth(self, kind: str, extension: str = ".nii.gz") -> Path:
        """Return the path of a true mask, such as ``label-L``, relative to the truth."""
        return self.folder / f"{self.prefix}_space-FLAIR_{kind}_mask{extension}"


def clear(out: Path) -> None:
    """Create the folder, or remove an earlier demo; CannotCreateError if it has other content."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not is_demo(out):
        raise CannotCreateError(
            f"{out} is not empty and was not written by {PROGRAM}",
            hint="choose a new or empty folder",
        )
    out.mkdir(parents=True, exist_ok=True)
    for folder in (*out.glob("sub-*"), out / TRUTH):
        if folder.is_dir():
            shutil.rmtree(folder)


def is_demo(folder: Path) -> bool:
    """Return whether a folder is a dataset that ``msseg-demo`` wrote."""
    return PROGRAM in generator_names(read_description(folder))


def write_top(out: Path, people: Sequence[Participant], *, seed: int) -> None:
    """Write the top-level files of the dataset and of its truth."""
    # first, because it marks the folder as one that may be replaced
    write_json(out / "dataset_description.json", _description())
    write_atomic(out / "README.md", README.format(version=__version__, seed=seed))
    write_atomic(out / "LICENSE", (embedded_directory().parent / "LICENSE").read_bytes())
    rows = [
        {
            "participant_id": person.label,
            "species": "homo sapiens",
            "head": "synthetic" if person.head else "none",
            "lesion_load": person.load,
        }
        for person in people
    ]
    for contrast, (echo, repetition, flip) in TIMINGS.items():
        write_json(out / f"{contrast}.json", _nominal(echo, repetition, flip))
    write_tsv(out / "participants.tsv", list(rows[0]), rows)
    write_json(out / "participants.json", _participants_dictionary())
    write_json(out / TRUTH / "dataset_description.json", _truth_description())
    write_atomic(out / TRUTH / "README.md", TRUTH_README)


def _description() -> dict[str, Any]:
    return {
        "Name": "Synthetic demo of bids_msseg",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "raw",
        "HEDVersion": "8.3.0",
        "License": "see LICENSE",
        "Authors": AUTHORS,
        "Acknowledgements": f"ICBM 152 template: Fonov et al. 2011, {TEMPLATE_DOI}",
        "Keywords": ["synthetic", "multiple sclerosis", "lesion", "FLAIR"],
        "GeneratedBy": [{"Name": PROGRAM, "Version": __version__}],
        "SourceDatasets": [{"DOI": TEMPLATE_DOI}],
    }


def _truth_description() -> dict[str, Any]:
    return {
        "Name": "Ground truth of the synthetic demo of bids_msseg",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "License": "see LICENSE of the raw dataset",
        "Authors": AUTHORS,
        # the name has to occur in that of the folder
        "GeneratedBy": [
            {
                "Name": TRUTH.name,
                "Version": __version__,
                "Description": f"Masks of the brain and of the lesions of {PROGRAM}",
            }
        ],
        "DatasetLinks": {"raw": "../.."},
    }


def _nominal(echo: float, repetition: float, flip: float) -> dict[str, Any]:
    """Return complete sidecar fields of a synthetic sequence, as the validator expects."""
    return {
        "Description": "Synthetic: the numbers are those of the sequence imitated",
        "Manufacturer": "none (synthetic)",
        "ManufacturersModelName": "none (synthetic)",
        "DeviceSerialNumber": "none",
        "StationName": "none",
        "SoftwareVersions": f"bids_msseg {__version__}",
        "MagneticFieldStrength": 3,
        "ReceiveCoilName": "none",
        "ReceiveCoilActiveElements": "none",
        "MatrixCoilMode": "none",
        "CoilCombinationMethod": "none",
        "PulseSequenceType": "none (synthetic)",
        "ScanningSequence": "RM",
        "SequenceVariant": "NONE",
        "SequenceName": "none",
        "PulseSequenceDetails": "mixture of tissue fractions, see README.md",
        "NonlinearGradientCorrection": True,
        "MRAcquisitionType": "3D",
        "EchoTime": echo,
        "RepetitionTime": repetition,
        "FlipAngle": flip,
        "DwellTime": 0.00001,
        "InstitutionName": "none",
        "InstitutionAddress": "none",
        "InstitutionalDepartmentName": "none",
    }


def _participants_dictionary() -> dict[str, Any]:
    return {
        "participant_id": {"Description": "Label of the participant"},
        "species": {"Description": "Species whose template was used"},
        "head": {
            "Description": "What surrounds the brain",
            "Levels": {
                "synthetic": "a synthetic head",
                "none": "nothing, as after skull stripping",
            },
        },
        "lesion_load": {
            "Description": "Target lesion load of the first visit",
            "Units": "mL",
        },
    }


def write_image_sidecar(visit: VisitFiles, protocol: Protocol, *, skull_stripped: bool) -> None:
    """Write the JSON sidecar of an image."""
    content = {"SkullStripped": skull_stripped}
    write_json(visit.out / visit.image(protocol.contrast, ".json"), content)


def write_truth(
    visit: VisitFiles, kind: str, mask: NDArray[np.bool_], grid: Grid, axes: str
) -> None:
    """Write a true mask with grid and stored axis directions of the FLAIR, and its sidecar."""
    flair = f"bids:raw:{visit.image('FLAIR').as_posix()}"
    folder = visit.out / TRUTH
    write_mask(mask, grid, folder / visit.truth(kind), axes)
    content = {
        **DESCRIPTIONS[kind],
        "Manual": False,
        "Sources": [flair],
        "SpatialReference": flair,
    }
    write_json(folder / visit.truth(kind, ".json"), content)
