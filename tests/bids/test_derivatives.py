"""Compare the listed output files of a visit with the files of a complete run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from bids_msseg.bids import derivatives
from bids_msseg.bids.changes import pair_files
from bids_msseg.bids.derivatives import (
    OUTPUTS,
    Extras,
    figure_labels,
    is_met,
    unrequested_files,
    visit_files,
)
from bids_msseg.bids.paths import _SUFFIXES
from bids_msseg.bids.record import VisitRecord
from bids_msseg.bids.visit import Visit
from bids_msseg.spaces import AtlasChoice, OutputSpace

OUT = Path("/out")
WRITTEN = Path(__file__).parents[1] / "e2e" / "expected_outputs.txt"
SPACES = (("FLAIR", None), ("T1w", None), ("MNI152NLin2009aSym", 1))
IMAGE = Path("f.nii.gz")
VISITS = {
    "three contrasts": Visit("01", "1", IMAGE, IMAGE, IMAGE),
    "T1w": Visit("01", "2", IMAGE, Path("t.nii.gz")),
    "T2w, no session": Visit("02", None, IMAGE, None, IMAGE),
    "FLAIR alone, acq": Visit("03", None, IMAGE, entities={"acq": "sag"}),
}


def written(visit: Visit) -> set[str]:
    """Return the expected files of one visit, without those of a pair of visits."""
    lines = WRITTEN.read_text(encoding="utf-8").splitlines()
    names = [line for line in lines if line.rpartition("/")[2].startswith(f"{visit.prefix}_")]
    return {name for name in names if "changes" not in name and "from-ses" not in name}


def below_out(paths: tuple[Path, ...]) -> set[str]:
    return {path.relative_to(OUT).as_posix() for path in paths}


@pytest.mark.parametrize("visit", VISITS.values(), ids=VISITS)
def test_visit_files_match_outputs_of_complete_run(visit: Visit) -> None:
    files = visit_files(OUT, visit, SPACES)
    assert len(set(files)) == len(files)
    assert below_out(files) == written(visit)


def test_pair_files_match_outputs_of_complete_run() -> None:
    later = VisitRecord("01", "2", "sub-01_ses-2", "ok")
    lines = WRITTEN.read_text(encoding="utf-8").splitlines()
    names = {line for line in lines if "changes" in line or "from-ses" in line}
    tables = {f"sub-01/sub-01_desc-changes_stats{extension}" for extension in (".tsv", ".json")}
    assert below_out(pair_files(OUT, "1", later).all) == names - tables


@pytest.mark.parametrize(
    ("spaces", "masks"),
    [
        ((), 0),
        ((("FLAIR", None),), 0),
        ((("T1w", None), ("MNI152NLin6Asym", None)), 2),
        ((("MNI152NLin6Asym", 1), ("MNI152NLin6Asym", 2)), 2),
    ],
)
def test_each_space_other_than_flair_adds_one_mask(
    spaces: tuple[tuple[str, int | None], ...], masks: int
) -> None:
    plain = set(visit_files(OUT, VISITS["T1w"]))
    more = {path.name for path in set(visit_files(OUT, VISITS["T1w"], spaces)) - plain}
    assert sum(name.endswith("_mask.nii.gz") for name in more) == masks
    # each requested template has one transform for all its resolutions
    others = {name for name, _ in spaces if name.startswith("MNI")}
    assert sum(name.endswith("_xfm.txt") for name in more) == len(others)


@pytest.mark.parametrize("visit", VISITS.values(), ids=VISITS)
def test_registration_figures_need_second_contrast(visit: Visit) -> None:
    labels = figure_labels(visit)
    assert ("registrationFLAIR" in labels) == (len(visit.contrasts) > 1)
    assert len(labels) == 5 + (len(visit.contrasts) if len(visit.contrasts) > 1 else 0)


@pytest.mark.parametrize("visit", VISITS.values(), ids=VISITS)
def test_given_mask_has_no_network_outputs(visit: Visit) -> None:
    given = replace(visit, lesion_mask=Path("m.nii.gz"))
    missing = below_out(visit_files(OUT, visit, SPACES)) - below_out(
        visit_files(OUT, given, SPACES)
    )
    folder = f"sub-{visit.participant}/" + (f"ses-{visit.session}/" if visit.session else "")
    stem = f"{folder}anat/{visit.prefix}_space-FLAIR"
    ends = ("label-L_probseg", "label-L_desc-candidates_mask", "seg-anatomy_dseg")
    expected = {f"{stem}_{end}.{ext}" for end in ends for ext in ("nii.gz", "json")}
    expected.add(f"{stem}_seg-anatomy_dseg.tsv")
    figure = f"sub-{visit.participant}/figures/{visit.prefix}_desc-brainAnatomy_FLAIR.png"
    assert missing == {*expected, figure}
    unasked = unrequested_files(OUT, given, Extras())
    assert below_out(unasked) - below_out(unrequested_files(OUT, visit, Extras())) == expected


def test_lesion_filling_of_given_mask_adds_anatomy() -> None:
    visit = VISITS["T1w"]
    given, asked = replace(visit, lesion_mask=Path("m.nii.gz")), Extras(filled=True)
    whole, files = (visit_files(OUT, one, SPACES, asked) for one in (visit, given))
    assert stems(set(whole) - set(files), visit) == {
        "space-FLAIR_label-L_probseg",
        "space-FLAIR_label-L_desc-candidates_mask",
    }
    assert set(files) < set(whole)


def test_names_of_outputs_differ() -> None:
    assert len({output.stem for output in OUTPUTS.values()}) == len(OUTPUTS)
    assert OUTPUTS["candidates"].stem == "space-FLAIR_label-L_desc-candidates_mask"
    assert OUTPUTS["filled"].stem == "space-*_desc-filled_*"


@pytest.mark.parametrize("name", OUTPUTS)
def test_table_states_description_and_sidecar_of_every_output(name: str) -> None:
    output = OUTPUTS[name]
    assert output.description[0].isupper()
    assert "\n" not in output.description
    assert (output.sidecar is not dict) == (".json" in output.extensions)
    # files of a visit are found again by their suffix
    assert output.entities.get("suffix", "FLAIR") in (*_SUFFIXES, derivatives.ANY)


def test_outputs_that_vary_have_variants() -> None:
    visit = VISITS["three contrasts"]
    varying = {name for name, output in OUTPUTS.items() if output.varies}
    assert set(derivatives._variants(visit, SPACES, Extras())) == varying


FILES = {
    "atlases": (Extras(atlases=(AtlasChoice.parse("sides"),)), {"desc-atlases_stats"}),
    "filled": (
        Extras(filled=True),
        {"space-FLAIR_desc-filled_FLAIR", "space-T1w_desc-filled_T1w"},
    ),
    "roi": (Extras(roi=True), {"t_label-lesion_roi"}),
}
GRIDS = (OutputSpace.parse("/a/qsm.nii.gz"), OutputSpace.parse("/a/dwi.nii.gz:T1w"))


def stems(paths: Iterable[Path], visit: Visit) -> set[str]:
    return {path.name.partition(".")[0].removeprefix(f"{visit.prefix}_") for path in paths}


@pytest.mark.parametrize("name", FILES)
def test_optional_files_are_listed_only_on_request(name: str) -> None:
    visit = VISITS["T1w"]
    asked, expected = FILES[name]
    more = set(visit_files(OUT, visit, SPACES, asked)) - set(visit_files(OUT, visit, SPACES))
    assert stems(more, visit) == expected
    every = set(unrequested_files(OUT, visit, Extras()))
    assert more < every
    assert set(unrequested_files(OUT, visit, asked)) == every - more


def test_other_segmenter_has_no_anatomy_outputs() -> None:
    visit, without = VISITS["T1w"], Extras(anatomy=False)
    lost = set(visit_files(OUT, visit, SPACES)) - set(visit_files(OUT, visit, SPACES, without))
    assert stems(lost, visit) == {"space-FLAIR_seg-anatomy_dseg", "desc-brainAnatomy_FLAIR"}
    gone = set(unrequested_files(OUT, visit, without)) - set(
        unrequested_files(OUT, visit, Extras())
    )
    assert stems(gone, visit) == {"space-FLAIR_seg-anatomy_dseg"}
    assert not is_met("anatomy", visit, without)


def test_t1w_outputs_are_not_expected_without_t1w() -> None:
    visit = VISITS["T2w, no session"]
    left = unrequested_files(OUT, visit, Extras(filled=True))
    assert stems(left, visit) == {"desc-atlases_stats", "space-T1w_desc-filled_T1w"}
    assert visit_files(OUT, visit, SPACES, Extras(roi=True)) == visit_files(OUT, visit, SPACES)


@pytest.mark.parametrize(
    ("name", "labels"), [("T1w", {"qsm", "dwi"}), ("T2w, no session", {"qsm"})]
)
def test_masks_on_reference_grids_need_their_contrast(name: str, labels: set[str]) -> None:
    visit = VISITS[name]
    whole = visit_files(OUT, visit, SPACES, Extras(grids=GRIDS))
    more = set(whole) - set(visit_files(OUT, visit, SPACES))
    assert stems(more, visit) == {f"space-{label}_label-L_mask" for label in labels}
