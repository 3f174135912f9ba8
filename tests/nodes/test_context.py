"""Sources and methods that the outputs of a visit name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bids_msseg.bids.derivatives import Extras
from bids_msseg.bids.record_values import ModelUse
from bids_msseg.bids.visit import Visit
from bids_msseg.nodes.context import DerivativesContext

BIDS = Path("/bids")
VISIT = Visit(
    "01",
    None,
    BIDS / "sub-01_FLAIR.nii.gz",
    lesion_mask=Path("/masks/m.nii.gz"),
    exclude_masks=(Path("/infarct/a.nii.gz"), Path("/infarct/b.nii.gz")),
)
NAMED = {"drawn": Path("/masks"), "infarct": Path("/infarct")}
GIVEN = DerivativesContext(VISIT, Path("/out"), BIDS, None, 0.1, 0.5, 3.0, derivatives=NAMED)


def test_given_mask_and_exclusion_masks_are_sources() -> None:
    excluded = ("bids:infarct:a.nii.gz", "bids:infarct:b.nii.gz")
    flair = "bids:raw:sub-01_FLAIR.nii.gz"
    assert GIVEN.lesion_sources() == (flair, "bids:drawn:m.nii.gz", *excluded)
    method = GIVEN.method()
    assert (method.masks, method.excluded) == ("drawn", "infarct")
    plain = replace(GIVEN, visit=replace(VISIT, lesion_mask=None, exclude_masks=()))
    assert plain.lesion_sources() == plain.sources() == (flair,)
    assert (plain.method().masks, plain.method().excluded) == ("", "")


def test_methods_name_networks_used_only_for_anatomy() -> None:
    model, asked = ModelUse("cascade", "1", "0" * 64), Extras(filled=True)
    filled = replace(GIVEN, model=model, extras=asked)
    assert (GIVEN.with_anatomy, filled.with_anatomy) == (False, True)
    without, with_networks = GIVEN.described().methods, filled.described().methods
    assert ("convolutional" in without, "convolutional" in with_networks) == (False, True)
    for text in (without, with_networks):
        assert "given masks drawn" in text
        assert "0.5" not in text
    keys = filled.method().keys()
    assert "drawn" in keys["SegmentationMethod"]
    assert not {"ModelName", "Threshold"} & set(keys)
    assert filled.method().model_keys()["ModelName"] == "cascade"
