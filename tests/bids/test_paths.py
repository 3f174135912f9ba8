"""Names of outputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_msseg.bids.derivatives import visit_files
from bids_msseg.bids.paths import (
    changes_path,
    check_path,
    figure_path,
    group_path,
    intermediate_path,
    lesion_roi_path,
    logs_dir,
    output_path,
    record_path,
    report_path,
    stale_outputs,
)
from bids_msseg.bids.visit import Visit, name_entities
from bids_msseg.errors import UsageError

OUT = Path("/data/out")
VISIT = Visit("01", "01", Path("f.nii.gz"))
LABELS = st.text("abcXYZ0189+", min_size=1, max_size=5)
ENTITIES = st.dictionaries(st.sampled_from(["acq", "ce", "rec", "run", "echo", "part"]), LABELS)
VISITS = st.builds(Visit, LABELS, st.none() | LABELS, st.just(Path("f.nii.gz")), entities=ENTITIES)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("space-FLAIR_label-L_mask.nii.gz", {"space": "FLAIR", "label": "L"}),
        ("space-FLAIR_label-L_mask.json", {"space": "FLAIR", "label": "L"}),
        ("space-FLAIR_label-L_probseg.nii.gz", {"space": "FLAIR", "label": "L"}),
        (
            "space-FLAIR_label-L_desc-candidates_probseg.nii.gz",
            {"space": "FLAIR", "label": "L", "desc": "candidates"},
        ),
        (
            "space-FLAIR_label-L_desc-candidates_mask.nii.gz",
            {"space": "FLAIR", "label": "L", "desc": "candidates"},
        ),
        (
            "space-FLAIR_label-L_desc-rejected_mask.nii.gz",
            {"space": "FLAIR", "label": "L", "desc": "rejected"},
        ),
        ("space-FLAIR_seg-lesions_dseg.tsv", {"space": "FLAIR", "seg": "lesions"}),
        ("space-T1w_label-L_mask.nii.gz", {"space": "T1w", "label": "L"}),
        (
            "space-MNI152NLin2009cAsym_res-1_label-L_mask.nii.gz",
            {"space": "MNI152NLin2009cAsym", "res": "1", "label": "L"},
        ),
        (
            "space-MNI152NLin2009aSym_res-1_label-L_mask.nii.gz",
            {"space": "MNI152NLin2009aSym", "res": 1, "label": "L"},
        ),
        ("space-FLAIR_desc-brain_mask.nii.gz", {"space": "FLAIR", "desc": "brain"}),
        ("space-FLAIR_desc-preproc_FLAIR.nii.gz", {"space": "FLAIR", "desc": "preproc"}),
        ("space-FLAIR_desc-preproc_T1w.nii.gz", {"space": "FLAIR", "desc": "preproc"}),
        ("from-T1w_to-FLAIR_mode-image_xfm.txt", {"from_": "T1w", "to": "FLAIR", "mode": "image"}),
        (
            "from-FLAIR_to-MNI152NLin2009aSym_mode-image_xfm.txt",
            {"from_": "FLAIR", "to": "MNI152NLin2009aSym", "mode": "image"},
        ),
        ("desc-lesions_stats.tsv", {"desc": "lesions"}),
    ],
)
def test_output_names_follow_bids(name: str, arguments: dict[str, Any]) -> None:
    suffix, extension = name.rsplit("_", 1)[1].split(".", 1)
    path = output_path(OUT, VISIT, suffix=suffix, extension=f".{extension}", **arguments)
    assert path == OUT / "sub-01/ses-01/anat" / f"sub-01_ses-01_{name}"


def test_entities_of_flair_keep_bids_order() -> None:
    entities = {"run": "02", "part": "mag", "rec": "n", "echo": "1", "ce": "gad", "acq": "3D"}
    visit = Visit("1", None, Path("f.nii"), entities=entities)
    path = output_path(OUT, visit, suffix="mask", extension=".nii.gz", label="L")
    assert path == OUT / "sub-1/anat/sub-1_acq-3D_ce-gad_rec-n_run-02_label-L_mask.nii.gz"


@given(VISITS, LABELS, LABELS)
def test_output_names_can_be_parsed(visit: Visit, space: str, desc: str) -> None:
    path = output_path(
        OUT, visit, suffix="mask", extension=".nii.gz", space=space, desc=desc, label="L"
    )
    entities, suffix = name_entities(path.name)
    kept = {name: visit.entities[name] for name in visit.entities if name not in ("echo", "part")}
    session = {} if visit.session is None else {"ses": visit.session}
    own = {"space": space, "label": "L", "desc": desc}
    assert entities == {"sub": visit.participant, **session, **kept, **own}
    assert suffix == "mask"
    assert path.name.startswith(visit.prefix + "_")


@given(VISITS, VISITS)
def test_two_visits_never_share_a_name(first: Visit, second: Visit) -> None:
    paths = {
        output_path(OUT, visit, suffix="mask", extension=".nii.gz", label="L")
        for visit in (first, second)
    }
    assert (len(paths) == 1) == (first.prefix == second.prefix)


@given(st.lists(st.text(max_size=8), min_size=6, max_size=6))
def test_output_path_is_inside_output_folder(texts: list[str]) -> None:
    participant, session, run, space, suffix, extension = texts
    visit = Visit(participant, session, Path("f"), entities={"run": run})
    try:
        path = output_path(OUT, visit, suffix=suffix, extension=extension, space=space)
    except UsageError:
        return
    assert path.resolve().is_relative_to(OUT)
    assert len(path.relative_to(OUT).parts) in (3, 4)


@pytest.mark.parametrize("evil", ["../x", "a/b", "a_b", "a-b", "", ".", "a\n", "é", "\u0661"])
def test_invalid_values_in_names_are_refused(evil: str) -> None:
    calls: list[Any] = [
        lambda: output_path(OUT, VISIT, suffix="mask", extension=".nii", space=evil),
        lambda: output_path(OUT, VISIT, suffix=evil, extension=".nii"),
        lambda: output_path(OUT, VISIT, suffix="mask", extension="." + evil),
        lambda: output_path(OUT, Visit(evil, None, Path()), suffix="mask", extension=".nii"),
        lambda: figure_path(OUT, VISIT, evil),
        lambda: report_path(OUT, evil),
        lambda: record_path(OUT, evil, None),
        lambda: group_path(OUT, evil),
    ]
    for call in calls:
        with pytest.raises(UsageError, match="file name"):
            call()


def test_paths_of_reports_figures_and_records() -> None:
    visit = Visit("01", "1", Path("f"), entities={"acq": "x"})
    assert figure_path(OUT, visit, "lesions") == (
        OUT / "sub-01/figures/sub-01_ses-1_acq-x_desc-lesions_FLAIR.svg"
    )
    assert report_path(OUT, "01") == OUT / "sub-01.html"
    assert logs_dir(OUT) == OUT / "logs"
    assert record_path(OUT, "01", None) == OUT / "logs/visits/sub-01.json"
    assert group_path(OUT, ".json") == OUT / "group_lesions.json"
    assert group_path(OUT, ".tsv", "summary") == OUT / "group_lesions_summary.tsv"
    assert changes_path(OUT, "01", ".tsv") == OUT / "sub-01/sub-01_desc-changes_stats.tsv"
    assert intermediate_path(OUT, "01", "1") == OUT / "logs/intermediate/sub-01_ses-1.zip"
    assert check_path(OUT, ".tsv", "visits") == OUT / "check_visits.tsv"


def test_error_states_invalid_part_of_name() -> None:
    for make, what in (
        (lambda: changes_path(OUT, "01", "tsv"), "extension"),
        (lambda: changes_path(OUT, "0/1", ".tsv"), "sub"),
        (lambda: group_path(OUT, "tsv"), "extension"),
        (lambda: group_path(OUT, ".tsv", "a/b"), "part"),
        (lambda: record_path(OUT, "0_1", None), "sub"),
        (lambda: record_path(OUT, "01", "1_"), "ses"),
        (lambda: report_path(OUT, "../01"), "sub"),
        (lambda: output_path(OUT, VISIT, suffix="a_b", extension=".txt"), "suffix"),
        (lambda: output_path(OUT, VISIT, suffix="mask", extension=".x", desc="-"), "desc"),
    ):
        with pytest.raises(UsageError, match=f"is not a valid {what} for a file name\n"):
            make()


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({}, {"acq": "3D"}),
        ({"acq": "3D"}, {}),
        ({"run": "1"}, {"run": "2"}),
        ({"ce": "gd", "rec": "n4"}, {"rec": "n4"}),
    ],
)
@pytest.mark.parametrize("session", [None, "1"])
def test_outputs_of_earlier_flair_name_are_stale(
    tmp_path: Path, session: str | None, before: dict[str, str], now: dict[str, str]
) -> None:
    flair, t1w = Path("f.nii.gz"), Path("t.nii.gz")
    old, new = (Visit("01", session, flair, t1w, entities=one) for one in (before, now))
    others = Visit("01", "2", Path("f.nii.gz"), entities=before), Visit("02", session, Path("f"))
    stale = outputs_of(tmp_path, old)
    for visit in (new, *others):
        outputs_of(tmp_path, visit)
    beside = output_path(tmp_path, old, suffix="rating", extension=".json", desc="qc")
    beside.touch()
    assert set(stale_outputs(tmp_path, new)) == stale
    assert stale_outputs(tmp_path, Visit("03", None, Path("f"))) == ()


@pytest.mark.parametrize("lost", [(), ("T1w",), ("T2w",), ("T1w", "T2w")])
@pytest.mark.parametrize("entities", [{}, {"acq": "3D", "run": "02"}])
def test_outputs_of_unused_contrast_are_stale(
    tmp_path: Path, entities: dict[str, str], lost: tuple[str, ...]
) -> None:
    """Figures are kept, because a contrast that could not be aligned has a figure, too."""
    image = Path("f.nii.gz")
    whole = Visit("01", "1", image, image, image, entities=entities)
    visit = replace(whole, **{name.lower(): None for name in lost})
    spaces = (("T1w", None), ("MNI152NLin2009aSym", 1))
    before, now = (set(visit_files(tmp_path, one, spaces)) for one in (whole, visit))
    for path in before:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    stale = set(stale_outputs(tmp_path, visit))
    assert stale == {path for path in before - now if path.parent.name == "anat"}
    assert len(stale) == 6 * ("T1w" in lost) + 4 * ("T2w" in lost)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("session", "folder"), [(None, "sub-01/anat"), ("2", "sub-01/ses-2/anat")]
)
def test_fmriprep_mask_is_named_after_t1w(session: str | None, folder: str, ending: str) -> None:
    t1w = Path(f"/raw/sub-01_acq-x.1_T1w{ending}")
    path = lesion_roi_path(OUT, Visit("01", session, Path("f.nii.gz"), t1w))
    assert path == OUT / "lesion_roi" / folder / "sub-01_acq-x.1_T1w_label-lesion_roi.nii.gz"
    assert lesion_roi_path(OUT, Visit("01", session, Path("f.nii.gz"))) is None


def test_fmriprep_mask_of_another_t1w_is_stale(tmp_path: Path) -> None:
    names = ("sub-01_run-1_T1w.nii.gz", "sub-01_run-2_T1w.nii.gz")
    old, new = (Visit("01", None, Path("f.nii.gz"), Path(name)) for name in names)
    other = Visit("02", None, Path("f.nii.gz"), Path("sub-02_T1w.nii.gz"))
    paths = [lesion_roi_path(tmp_path, visit) for visit in (old, new, other)]
    for path in paths:
        assert path is not None
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert stale_outputs(tmp_path, new) == (paths[0],)
    assert stale_outputs(tmp_path, replace(new, t1w=None)) == (paths[0], paths[1])


def outputs_of(out: Path, visit: Visit) -> set[Path]:
    paths = {
        output_path(out, visit, suffix="mask", extension=".nii.gz", space="FLAIR", label="L"),
        output_path(out, visit, suffix="mask", extension=".json", space="FLAIR", label="L"),
        output_path(out, visit, suffix="stats", extension=".tsv", desc="lesions"),
        output_path(
            out, visit, suffix="xfm", extension=".txt", from_="T1w", to="FLAIR", mode="image"
        ),
        figure_path(out, visit, "lesions", extension=".png"),
    }
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths
