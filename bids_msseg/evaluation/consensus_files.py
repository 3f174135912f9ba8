"""Outputs of ``msseg-consensus``: masks, probability maps, two tables and descriptions."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from bids_msseg.bids.dataset import check_directories, dataset_description, read_description
from bids_msseg.bids.files import write_json, write_tsv
from bids_msseg.bids.paths import output_path
from bids_msseg.bids.sidecars import bids_uri, link_name
from bids_msseg.bids.visit import IDENTITY_COLUMNS, Visit, identity_cells
from bids_msseg.errors import UsageError, convert_os_error
from bids_msseg.evaluation.raters import RatedVisit
from bids_msseg.imaging.volume import Volume, save_volume
from bids_msseg.io.atomic import write_atomic
from bids_msseg.lesions.mask_values import MaskValues
from bids_msseg.lesions.raters.consensus import METHODS, Consensus, LeftOut, Method, Score

Row = dict[str, Any]

PROGRAM: Final = "msseg-consensus"
METHOD_DESCRIPTIONS: Final[Mapping[Method, str]] = {
    "majority": "Share of the raters that drew a voxel",
    "staple": "STAPLE (SimpleITK) inside the union of the raters' masks",
    "lopstaple": "STAPLE as a logarithmic opinion pool inside the union of the raters' masks, "
    "each rater weighted by the local agreement with the others",
}
_VISIT: Final[Mapping[str, Mapping[str, Any]]] = {
    **IDENTITY_COLUMNS,
    "visit": {"Description": "Prefix of the file names of the visit"},
    "consensus": {
        "Description": "How the masks were fused",
        "Levels": {name: METHOD_DESCRIPTIONS[name] for name in METHODS},
    },
    "n_raters": {"Description": "Raters with a vote in the consensus"},
}
_SCORES: Final[Mapping[str, Mapping[str, Any]]] = {
    "dice": {"Description": "Dice overlap with the consensus; n/a where both are empty"},
    "sensitivity": {"Description": "Share of the consensus' voxels in the mask"},
    "specificity": {
        "Description": "Share of the voxels outside the consensus that are outside the mask, "
        "within the union of the masks dilated by two voxels"
    },
    "ppv": {"Description": "Positive predictive value: share of the mask in the consensus"},
    "lesion_sensitivity": {
        "Description": "Share of the consensus' lesions (26-connected, from 3 mm^3 on) that the "
        "mask touches"
    },
    "lesion_ppv": {"Description": "Share of the mask's lesions that the consensus touches"},
    "lesion_f1": {"Description": "Harmonic mean of lesion_sensitivity and lesion_ppv"},
    "volume_ml": {"Description": "Volume of the mask", "Units": "mL"},
    "consensus_volume_ml": {"Description": "Volume of the consensus", "Units": "mL"},
}
RATER_COLUMNS: Final[Mapping[str, Mapping[str, Any]]] = {
    **_VISIT,
    "rater": {"Description": "Value of desc- in the name of the mask"},
    **_SCORES,
    "estimated_sensitivity": {"Description": "Sensitivity that the fusion estimated"},
    "estimated_specificity": {
        "Description": "Specificity that the fusion estimated, inside the union of the raters' "
        "masks (dilated by --margin)"
    },
    "reliability_weight": {
        "Description": "Mean weight of the rater's opinion; 1 if all raters have the same weight"
    },
}
LEFT_OUT_COLUMNS: Final[Mapping[str, Mapping[str, Any]]] = {
    **_VISIT,
    "left_out": {"Description": "Rater without a vote in the consensus; n/a where all have one"},
    "assessed": {"Description": "Rater or program whose mask is compared with the consensus"},
    "kind": {
        "Description": "Who made the mask",
        "Levels": {
            "rater": "A rater, who has no vote",
            "algorithm": "A program, which never votes",
        },
    },
    **_SCORES,
}


def prepare_output(bids_dir: Path, out_dir: Path, datasets: Mapping[str, Path]) -> tuple[str, ...]:
    """Create the top folder of the consensus dataset and return warnings.

    Raises UsageError for another dataset or an input folder, CannotCreateError if not writable.
    """
    _refuse_foreign(out_dir, datasets.values())
    notes = check_directories(bids_dir, out_dir, out_dir / ".work", create=False)
    raw = read_description(bids_dir)
    about = dataset_description(
        out_dir, bids_dir, raw, derivatives=datasets, environment=os.environ
    )
    about["Name"] = f"Consensus of raters: {raw.get('Name') or 'a BIDS dataset'}"
    about["GeneratedBy"][0]["Description"] = f"{PROGRAM}: consensus of several raters' masks"
    about["DatasetLinks"].pop("templateflow", None)
    about.pop("HowToAcknowledge", None)
    with convert_os_error(f"cannot write to {out_dir}", hint="make the folder writable"):
        write_json(out_dir / "dataset_description.json", about)
        write_atomic(out_dir / ".bidsignore", "group_*\n")
        write_atomic(out_dir / "README.md", _README)
        rows = [
            {"desc_id": f"desc-{name}", "description": METHOD_DESCRIPTIONS[name]}
            for name in METHODS
        ]
        write_tsv(out_dir / "descriptions.tsv", ("desc_id", "description"), rows)
        write_json(
            out_dir / "descriptions.json",
            {"Description": "Meaning of the desc- labels in file names"},
        )
    return notes


_README: Final = """\
# Consensus of several raters

Written by msseg-consensus of bids_msseg. Each visit has, under `sub-*/[ses-*/]anat/`, for each
fusion method (`descriptions.tsv`):

- `label-L_desc-<method>_mask`: the consensus
- `label-L_desc-<method>_probseg`: the probability map; the consensus is where it is at least 0.5

`group_raters.tsv` compares each rater with the consensus, `group_leave_one_out.tsv` with the
consensus of the others; the JSON files of the same names explain the columns.
"""


def _refuse_foreign(out_dir: Path, inputs: Iterable[Path]) -> None:
    for folder in inputs:
        if out_dir.resolve().is_relative_to(folder.resolve()):
            raise UsageError(
                f"the output folder {out_dir} is inside the input folder {folder}",
                hint="choose an empty folder outside the input folders",
            )
    about = read_description(out_dir)
    makers = about.get("GeneratedBy")
    maker = makers[0] if isinstance(makers, list) and makers else {}
    description = maker.get("Description", "") if isinstance(maker, dict) else ""
    if about and not str(description).startswith(PROGRAM):
        raise UsageError(
            f"the output folder {out_dir} contains another dataset", hint="choose an empty folder"
        )


def name_datasets(folders: Sequence[Path]) -> dict[str, Path]:
    """Assign each dataset a unique name for BIDS URIs, made from its folder name."""
    named: dict[str, Path] = {}
    for folder in folders:
        stem = link_name(folder.absolute().name) or "source"
        name, count = stem, 1
        while name in named:
            count += 1
            name = f"{stem}-{count}"
        named[name] = folder
    return named


def write_consensus(
    out_dir: Path,
    rated: RatedVisit,
    consensus: Consensus,
    grid: Volume,
    datasets: Mapping[str, Path],
    *,
    space: str,
    margin: int,
    values: MaskValues = None,
) -> None:
    """Write one consensus mask of a visit, its probability map and their JSON sidecars."""
    uris = [bids_uri(path, datasets) for path in rated.raters.values()]
    method_text = METHOD_DESCRIPTIONS[consensus.method] + (
        f"; union dilated by {margin} voxels" if margin else ""
    )
    if values is not None:
        method_text += f"; mask values of lesions: {', '.join(map(str, values))}"
    outputs: tuple[tuple[str, Any, str, Row], ...] = (
        ("mask", consensus.mask, f"At least one half of: {method_text}", {"Type": "Lesion"}),
        ("probseg", consensus.probability, method_text, {}),
    )
    for suffix, data, text, extra in outputs:
        about = {"Description": text, **extra, "Sources": uris, "SpatialReference": uris[0]}
        name = {"suffix": suffix, "space": space, "label": "L", "desc": consensus.method}
        image = grid.with_data(data)
        write_atomic(
            output_path(out_dir, rated.visit, extension=".nii.gz", **name),
            lambda path, image=image: save_volume(image, path),  # type: ignore[misc]
        )
        write_json(output_path(out_dir, rated.visit, extension=".json", **name), about)


def rater_rows(rated: RatedVisit, consensus: Consensus, scores: Mapping[str, Score]) -> list[Row]:
    """Build rows of :data:`RATER_COLUMNS`: agreement of each rater with a consensus, in order."""
    start = {**_visit_cells(rated.visit), "consensus": consensus.method, "n_raters": len(scores)}
    estimates = np.stack([consensus.sensitivity, consensus.specificity, consensus.weight], axis=1)
    return [
        {
            **start,
            "rater": name,
            **_score_cells(score),
            "estimated_sensitivity": sensitivity,
            "estimated_specificity": specificity,
            "reliability_weight": weight,
        }
        for (name, score), (sensitivity, specificity, weight) in zip(
            scores.items(), estimates.tolist(), strict=True
        )
    ]


def left_out_rows(rated: RatedVisit, compared: Iterable[LeftOut]) -> list[Row]:
    """Build rows of :data:`LEFT_OUT_COLUMNS`: masks against the consensus of the others."""
    return [
        {
            **_visit_cells(rated.visit),
            "consensus": row.method,
            "n_raters": row.n_raters,
            "left_out": row.left_out,
            "assessed": row.assessed,
            "kind": "algorithm" if row.algorithm else "rater",
            **_score_cells(row.score),
        }
        for row in compared
    ]


def write_tables(out_dir: Path, raters: Sequence[Row], left_out: Sequence[Row]) -> None:
    """Write the tables of both comparisons and their data dictionaries."""
    for name, columns, rows in (
        ("group_raters", RATER_COLUMNS, raters),
        ("group_leave_one_out", LEFT_OUT_COLUMNS, left_out),
    ):
        write_tsv(out_dir / f"{name}.tsv", list(columns), rows)
        write_json(out_dir / f"{name}.json", columns)


def _visit_cells(visit: Visit) -> Row:
    return {**identity_cells(visit.participant, visit.session), "visit": visit.prefix}


def _score_cells(score: Score) -> Row:
    voxel, lesion = score.voxel, score.lesion
    return {
        "dice": voxel.dice,
        "sensitivity": voxel.sensitivity,
        "specificity": voxel.specificity,
        "ppv": voxel.ppv,
        "lesion_sensitivity": lesion.sensitivity,
        "lesion_ppv": lesion.ppv,
        "lesion_f1": lesion.f1,
        "volume_ml": voxel.volume_pred_ml,
        "consensus_volume_ml": voxel.volume_truth_ml,
    }
