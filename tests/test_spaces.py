"""Parsing of atlas choices, and paths with labels of the visit."""

from __future__ import annotations

from pathlib import Path

import pytest

from bids_msseg.errors import UsageError
from bids_msseg.options import read_options
from bids_msseg.spaces import ATLAS_SPACE, EMBEDDED_SPACE, AtlasChoice, fill_in

CHOICES = {
    "sides": AtlasChoice("sides", "embedded", "sides", EMBEDDED_SPACE),
    "aseg": AtlasChoice("aseg", "freesurfer", "aseg", "T1w"),
    "aparc+aseg": AtlasChoice("aparcaseg", "freesurfer", "aparc+aseg", "T1w"),
    "aparc.a2009s+aseg": AtlasChoice("aparca2009saseg", "freesurfer", "aparc.a2009s+aseg", "T1w"),
    "/a/tracts.nii.gz:T1w": AtlasChoice("tracts", "file", "/a/tracts.nii.gz", "T1w"),
    "/a/aparc+aseg.mgz:anat": AtlasChoice("aparcaseg", "file", "/a/aparc+aseg.mgz", "T1w"),
    "JHU=/a/x.nii:MNI152NLin6Asym": AtlasChoice("JHU", "file", "/a/x.nii", "MNI152NLin6Asym"),
    "/a/sub-{subject}_space-flair_seg-my_dseg.nii.gz": AtlasChoice(
        "my", "file", "/a/sub-{subject}_space-flair_seg-my_dseg.nii.gz", "FLAIR"
    ),
    "/a/tpl-MNI152NLin6Asym_res-01_atlas-HOCPA_desc-th25_dseg.nii.gz": AtlasChoice(
        "HOCPA",
        "file",
        "/a/tpl-MNI152NLin6Asym_res-01_atlas-HOCPA_desc-th25_dseg.nii.gz",
        "MNI152NLin6Asym",
    ),
    "Schaefer2018:desc-100Parcels7Networks": AtlasChoice(
        "Schaefer2018100Parcels7Networks",
        "templateflow",
        "Schaefer2018",
        ATLAS_SPACE,
        "100Parcels7Networks",
    ),
    "DiFuMo:MNI152NLin6Asym:desc-64dimensions:res-02": AtlasChoice(
        "DiFuMo64dimensions", "templateflow", "DiFuMo", "MNI152NLin6Asym", "64dimensions", 2
    ),
}


@pytest.mark.parametrize("text", CHOICES)
def test_atlas_choice_is_parsed_and_round_trips(text: str) -> None:
    choice = AtlasChoice.parse(text)
    assert choice == CHOICES[text]
    assert AtlasChoice.parse(str(choice)) == choice


@pytest.mark.parametrize(
    "text",
    ["", ":T1w", "a b", "/a/x.nii.gz", "/a/x.nii.gz:T2w", "/a/x.nii.gz:", "x.txt:T1w", "A:B:C"],
)
def test_invalid_atlas_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        read_options({"atlas": [text]})


def test_atlas_file_path_becomes_absolute() -> None:
    assert AtlasChoice.parse("x.nii:FLAIR").source == str(Path("x.nii").absolute())


@pytest.mark.parametrize(
    ("texts", "accepted"),
    [
        ([], 0),
        (["sides", "sides"], 1),
        (["/a/x.nii:T1w", "/b/y.nii:T1w"], 2),
        (["/a/x.nii:T1w", "/b/x.nii:T1w"], None),
        (["/a/x.nii:T1w", "y=/b/x.nii:T1w"], 2),
    ],
)
def test_atlases_with_duplicate_names_are_refused(texts: list[str], accepted: int | None) -> None:
    if accepted is None:
        with pytest.raises(UsageError):
            read_options({"atlas": texts})
    else:
        assert len(read_options({"atlas": texts})["atlas"]) == accepted


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sides", False),
        ("Schaefer2018", False),
        ("/a/x.nii:T1w", False),
        ("/a/sub-{subject}.nii:T1w", True),
        ("wmparc", True),
    ],
)
def test_is_per_visit_of_atlas_choices(text: str, expected: bool) -> None:
    assert AtlasChoice.parse(text).is_per_visit == expected


@pytest.mark.parametrize(
    ("pattern", "session", "expected"),
    [
        ("/a/x.nii", None, "/a/x.nii"),
        ("/a/{subject}_{session}.nii", "M6", "/a/01_M6.nii"),
        ("/a/sub-{subject}/sub-{subject}.nii", None, "/a/sub-01/sub-01.nii"),
        ("/a/{subject}_{session}.nii", None, None),
    ],
)
def test_fill_in_inserts_labels_of_visit_into_path(
    pattern: str, session: str | None, expected: str | None
) -> None:
    found = fill_in(pattern, "01", session)
    assert found == (None if expected is None else Path(expected))
