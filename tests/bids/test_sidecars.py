"""JSON sidecars of the outputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bids_msseg.bids.record_values import ModelUse
from bids_msseg.bids.sidecars import (
    Method,
    Origin,
    anatomy_sidecar,
    bids_uri,
    brain_mask_sidecar,
    candidates_sidecar,
    dseg_columns,
    dseg_rows,
    dseg_sidecar,
    lesion_mask_sidecar,
    link_name,
    preproc_sidecar,
    probseg_sidecar,
    rejected_sidecar,
    template_uri,
    xfm_sidecar,
)
from bids_msseg.lesions.load_table import lesion_table
from bids_msseg.models.brain_volumes import LABEL_COLUMNS

FLAIR = "bids:raw:sub-01/anat/sub-01_FLAIR.nii.gz"
ORIGIN = Origin((FLAIR,), FLAIR, software={"torch": "2.13.0", "deepbet": "1.0.2"})
METHOD = Method(
    ModelUse("cascade", "1", "ff"), threshold=0.4, min_lesion_volume=3.0, candidate_threshold=0.1
)


def test_content_of_lesion_mask_sidecar() -> None:
    assert lesion_mask_sidecar(ORIGIN, METHOD) == {
        "Type": "Lesion",
        "Description": "Lesions, segmented by the cascade",
        "Manual": False,
        "Sources": [FLAIR],
        "SpatialReference": FLAIR,
        "SoftwareVersion": "torch 2.13.0, deepbet 1.0.2",
        "ModelName": "cascade",
        "ModelVersion": "1",
        "ModelSHA256": "ff",
        "Threshold": 0.4,
        "MinLesionVolume": 3.0,
        "MinLesionVolumeUnits": "mm^3",
    }


def test_candidates_sidecar_has_candidate_threshold() -> None:
    assert candidates_sidecar(ORIGIN, METHOD)["Threshold"] == 0.1
    assert rejected_sidecar(ORIGIN, METHOD)["Threshold"] == 0.4
    plain = Method(METHOD.model, 0.4, 3.0)
    assert candidates_sidecar(ORIGIN, plain)["Threshold"] == 0.4


def test_sidecar_of_other_segmenter_has_licence_and_citation() -> None:
    other = ModelUse("SEG", "2", "ff", "command", "MIT", "Doe 2020", ("FLAIR",))
    method = Method(other, 0.4, 3.0)
    for content in (lesion_mask_sidecar(ORIGIN, method), probseg_sidecar(ORIGIN, method)):
        assert "SEG 2" in content["Description"]
        assert content["Segmenter"] == "command"
        assert (content["ModelLicense"], content["ModelCitation"]) == ("MIT", "Doe 2020")
    assert candidates_sidecar(ORIGIN, method)["Threshold"] == 0.4
    bare = Method(ModelUse("SEG", "", "ff", "command"), 0.4, 3.0)
    keys = {"ModelVersion", "ModelLicense", "ModelCitation"}
    assert not keys & set(lesion_mask_sidecar(ORIGIN, bare))


def test_sidecar_of_probability_map_has_no_threshold() -> None:
    content = probseg_sidecar(ORIGIN, METHOD)
    assert "Threshold" not in content
    assert content["ModelSHA256"] == "ff"


def test_content_of_preprocessed_image_sidecar() -> None:
    content = preproc_sidecar(
        "T1w", Origin((FLAIR,), None, "1 mm"), skull_stripped=True, steps=("a", "b")
    )
    assert content == {
        "Description": "Preprocessed T1w image: a; b",
        "SkullStripped": True,
        "Sources": [FLAIR],
        "Resolution": "1 mm",
    }


def test_content_of_brain_mask_sidecar() -> None:
    content = brain_mask_sidecar(ORIGIN, replace(METHOD, brain_mask="deepbet 1.0.2"))
    assert (content["Type"], content["Manual"]) == ("Brain", False)
    assert "deepbet" in content["Description"]


def test_lesion_instances_have_table_rows_and_descriptions() -> None:
    labels = np.array([0, 1, 1, 2]).reshape(4, 1, 1)
    kept = lesion_table(labels, np.eye(4))
    rejected = lesion_table(labels, np.eye(4), status="rejected")
    rows = dseg_rows([*kept, *rejected])
    assert [(row["index"], row["abbreviation"], row["mapping"]) for row in rows] == [
        ("1", "L1", 7),
        ("2", "L2", 7),
    ]
    assert dseg_columns()[:4] == ("index", "name", "abbreviation", "mapping")
    assert set(dseg_columns()) <= rows[0].keys()
    described = set(dseg_sidecar(ORIGIN, METHOD))
    assert set(dseg_columns()) - described == {"index", "name", "abbreviation", "mapping"}


def test_anatomy_sidecar_describes_only_non_bids_columns() -> None:
    content = anatomy_sidecar(ORIGIN, METHOD)
    assert "Threshold" not in content
    assert (content["Manual"], content["ModelSHA256"]) == (False, "ff")
    known = {"index", "name", "abbreviation", "color", "mapping"}
    assert set(LABEL_COLUMNS) & set(content) == set(LABEL_COLUMNS) - known


def test_content_of_transform_sidecar() -> None:
    content = xfm_sidecar("T1w", "FLAIR", kind="rigid", sources=(FLAIR,), software={})
    assert content["Description"].startswith("Rigid transform that brings images from T1w to FLA")
    assert content["Type"] == "rigid"


class TestUris:
    def test_uri_uses_innermost_dataset(self, tmp_path: Path) -> None:
        datasets = {"raw": tmp_path, "": tmp_path / "derivatives/x", "other one": Path("/o")}
        assert bids_uri(tmp_path / "sub-1/a.nii", datasets) == "bids:raw:sub-1/a.nii"
        assert bids_uri(tmp_path / "derivatives/x/a.nii", datasets) == "bids::a.nii"
        assert bids_uri(Path("/o/a.nii"), datasets) == "bids:other-one:a.nii"

    def test_uri_of_path_outside_datasets_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="in none of the datasets"):
            bids_uri(Path("/elsewhere/x"), {"raw": tmp_path})

    def test_link_name_and_template_uri(self) -> None:
        assert link_name("a b/c") == "a-b-c"
        assert template_uri("X") == "bids:templateflow:tpl-X/tpl-X_T1w.nii.gz"


def test_sidecar_of_given_mask_names_its_source() -> None:
    """The rater is unknown, and there are no weights and no threshold."""
    given = Method(None, 0.5, 3.0, 0.1, "manual")
    for content in (lesion_mask_sidecar(ORIGIN, given), dseg_sidecar(ORIGIN, given)):
        assert "manual" in content["SegmentationMethod"]
        assert content["MinLesionVolume"] == 3.0
        assert not {"Manual", "Threshold", "ModelName"} & set(content)
    assert "manual" in lesion_mask_sidecar(ORIGIN, given)["Description"]
    networks = rejected_sidecar(ORIGIN, METHOD)["Description"]
    assert rejected_sidecar(ORIGIN, given)["Description"] != networks


def test_sidecars_name_exclusion_masks() -> None:
    masked = replace(METHOD, excluded="infarct, tumour")
    for describe in (lesion_mask_sidecar, probseg_sidecar, dseg_sidecar):
        assert "infarct, tumour" in describe(ORIGIN, masked)["Description"]
        assert "exclusion" not in describe(ORIGIN, METHOD)["Description"]
