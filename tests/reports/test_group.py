from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from bids_msseg.bids.derivatives import mask_in
from bids_msseg.bids.files import load_tsv
from bids_msseg.bids.record import VisitRecord, read_record, write_record
from bids_msseg.bids.record_values import ContrastUse
from bids_msseg.bids.visit import Visit
from bids_msseg.errors import CannotCreateError, NoInputError
from bids_msseg.imaging.volume import Volume, save_volume
from bids_msseg.reports.group.data import ROWS
from bids_msseg.reports.group.report import write_group
from bids_msseg.reports.group.table import columns, group_rows, mixtures

Read = Callable[[Path | str], Any]

TRUST = [
    "lesion_load_expected_ml", "lesion_load_low_ml", "lesion_load_high_ml",
    "lesion_load_interval_reason", "lesion_load_interval_note", "quality", "quality_reasons",
    "training_distance", "flair_noise", "brain_at_fov_edge_cm2",
]  # fmt: skip
CHANGES = [
    "visit_number", "visit_order_source", "compared_with",
    "n_new", "n_enlarging", "n_shrinking", "n_resolved", "n_unclear",
    "new_ml", "enlarging_gained_ml", "shrinking_lost_ml", "resolved_ml",
    "brain_parenchymal_fraction_change", "ventricles_change_ml",
]  # fmt: skip
BRAIN = [
    "parenchyma_ml", "ventricles_ml", "choroid_plexus_ml", "cortex_ml", "white_matter_ml",
    "deep_grey_ml", "hippocampus_amygdala_ml", "cerebellum_ml", "brainstem_ml",
    "brain_parenchymal_fraction", "ventricular_fraction", "anatomy",
]  # fmt: skip
REGIONS = ("periventricular", "juxtacortical", "infratentorial", "deep_white_matter")
EXPECTED = [
    "participant_id", "session_id", "status", "lesion_load_ml", "lesion_count", *TRUST,
    *(f"{region}_{name}" for region in REGIONS for name in ("load_ml", "count")),
    "dissemination_in_space", *BRAIN, *CHANGES,
    "brain_volume_ml", "lesion_load_percent_of_brain", "rejected_count", "excluded_ml",
    "contrasts", "flair_voxel_mm", "model", "model_sha256", "lesion_mask", "threshold",
    "min_lesion_volume_mm3", "flags", "reason",
]  # fmt: skip


def test_group_table_has_one_row_per_visit(out_dir: Path) -> None:
    table = write_group(out_dir).tsv
    assert table == out_dir / "group_lesions.tsv"
    first, failed, skipped = load_tsv(table)
    assert list(first) == EXPECTED
    assert list(first.values()) == [
        "sub-01", "ses-1", "ok", "12.5", "31", *["n/a"] * len(TRUST),
        "8", "9", "2.5", "12", "0", "0", "2", "10", "true", *["n/a"] * len([*BRAIN, *CHANGES]),
        "1250", "1", "14", "n/a", "FLAIR+T1w", "0.57x0.57x3.30", "first 0.1.0", "0123456789ab",
        "n/a", "0.4", "3", "The slices are thick.", "n/a",
    ]  # fmt: skip
    assert failed["session_id"] == "ses-2"
    assert failed["reason"] == "cannot read …/sub-01_ses-2_FLAIR.nii.gz: it is cut off"
    assert skipped["reason"] == "there is no FLAIR"
    measured = EXPECTED[3 : EXPECTED.index("flags")]
    assert {failed[name] for name in measured} == {"n/a"}


def test_group_rows_omit_measures_of_failed_visit(make_record: Any) -> None:
    record = dataclasses.replace(make_record(), status="failed", reason="killed")
    row = group_rows([record])[0]
    assert row["lesion_load_ml"] == row["periventricular_count"] == "n/a"
    assert row["contrasts"] == "FLAIR+T1w"


def test_data_dictionary_describes_every_column(out_dir: Path) -> None:
    dictionary = json.loads(write_group(out_dir).tsv.with_suffix(".json").read_text())
    assert list(dictionary) == EXPECTED
    assert all(entry["Description"] for entry in dictionary.values())
    assert dictionary["lesion_load_ml"]["Units"] == "mL"
    assert set(dictionary["status"]["Levels"]) == {"ok", "failed", "skipped", "running"}
    dissemination = dictionary["dissemination_in_space"]
    assert "McDonald 2017" in dissemination["Description"]
    assert "cord and optic nerve not assessed" in dissemination["Description"]


def test_group_rows_contain_load_interval_and_quality(make_record: Any) -> None:
    record = dataclasses.replace(
        make_record(),
        load_interval_ml=(10.0, 5.0, 20.5),
        load_interval_note="use the mask",
        quality_reasons=("the T1w image is noisy", "the FLAIR image looks like a T2w image"),
        quality_measures={
            "training_distance": 7.5,
            "cut_cm2": 12.0,
            "FLAIR_noise_x": 0.2,
            "FLAIR_noise_y": 0.3,
            "FLAIR_noise_z": 0,
        },
    )
    row = group_rows([record])[0]
    assert [row[name] for name in TRUST] == [
        "10", "5", "20.5", "n/a", "use the mask", "flagged",
        "the T1w image is noisy; the FLAIR image looks like a T2w image", "7.5", "0.3", "12",
    ]  # fmt: skip
    passed = dataclasses.replace(
        record, quality_reasons=(), load_interval_ml=None, load_interval_reason="not measured"
    )
    row = group_rows([passed])[0]
    assert (row["quality"], row["quality_reasons"]) == ("ok", "n/a")
    reason = row["lesion_load_interval_reason"]
    assert (row["lesion_load_low_ml"], reason) == ("n/a", "not measured")


def test_group_rows_contain_brain_volumes(make_record: Any) -> None:
    measures = {"ventricles_ml": 31.5, "ventricular_fraction": 0.025, "cortex_ml": math.nan}
    record = make_record(brain_measures=measures, anatomy_implausible=())
    doubtful = dataclasses.replace(
        record, anatomy_implausible=("brainstem_ml 2 is not within 12-60",)
    )
    failed = dataclasses.replace(record, status="failed", reason="killed")
    first, second, third = group_rows([record, doubtful, failed])
    names = ("ventricles_ml", "ventricular_fraction", "cortex_ml", "parenchyma_ml", "anatomy")
    assert [first[name] for name in names] == ["31.5", "0.025", "n/a", "n/a", "ok"]
    assert second["anatomy"] == "flagged"
    assert {third[name] for name in BRAIN} == {"n/a"}


def test_column_names_are_unique() -> None:
    names = [column.name for column in columns()]
    assert len(names) == len(set(names))


def test_tabs_and_newlines_in_flags_become_spaces(tmp_path: Path, make_record: Any) -> None:
    write_record(tmp_path, make_record(flags=("a\tb", "c\nd")))
    row = load_tsv(write_group(tmp_path).tsv)[0]
    assert row["flags"] == "a b; c d"
    assert row["reason"] == "n/a"


def test_missing_values_are_n_a_in_group_table(tmp_path: Path) -> None:
    write_record(tmp_path, VisitRecord("01", None, "sub-01", "ok", brain_volume_ml=0.0))
    row = load_tsv(write_group(tmp_path).tsv)[0]
    assert row["session_id"] == "n/a"
    assert row["brain_volume_ml"] == "0"
    others = set(EXPECTED) - {"participant_id", "status"}
    assert {row[name] for name in others} == {"n/a", "0"}


def test_group_page_has_visits_links_and_sort_buttons(out_dir: Path, read_page: Read) -> None:
    page = read_page(write_group(out_dir).html)
    assert "3 visits of 1 participant" in page.text
    assert "1 ok · 1 failed · 1 skipped" in page.text
    assert page.all("a", "href").count("sub-01.html#ses-1") == 1
    assert "sub-01.html#ses-10" in page.all("a", "href")
    picture, *others = page_data(out_dir)["pictures"]
    assert picture.startswith("data:image/jpeg;base64,")
    assert others == [None, None]
    table = load_tsv(out_dir / "group_lesions.tsv")
    filled = [
        column.shown
        for column in columns()
        if column.shown
        and (column.name == "flags" or {row[column.name] for row in table} != {"n/a"})
    ]
    assert page.tags["button"] == len(filled) + 4  # navigation buttons
    assert "there is no FLAIR" in page.text


def test_group_page_csp_allows_only_its_own_script(out_dir: Path, read_page: Read) -> None:
    html = write_group(out_dir).html
    policy = read_page(html).all("meta", "content")[0]
    assert re.fullmatch(
        r"default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        r"script-src 'sha256-[A-Za-z0-9+/]{43}='",
        policy,
    )
    scripts = [attrs for tag, attrs in read_page(html).elements if tag == "script"]
    assert [attrs.get("type") for attrs in scripts] == ["application/json", None]


def test_group_page_escapes_text_from_data(
    tmp_path: Path, make_record: Any, read_page: Read
) -> None:
    evil = "</td><script>alert(1)</script>"
    contrasts = {evil: ContrastUse("f", (1.0, 1.0, 1.0))}
    write_record(tmp_path, make_record(flags=(evil,), contrasts=contrasts))
    write_record(tmp_path, VisitRecord("02", None, "", "failed", evil))
    (tmp_path / "logs/visits/sub-<b>x.json").write_text("{")
    page = read_page(write_group(tmp_path).html)
    assert page.tags["script"] == 2  # the data and the script of the page
    assert page.tags["b"] == 0
    assert page.text.count(evil) == 3


def test_group_page_warns_of_different_settings(
    tmp_path: Path, make_record: Any, read_page: Read
) -> None:
    write_record(tmp_path, make_record("01", None))
    write_record(tmp_path, make_record("02", None, options={"threshold": 0.5}))
    text = read_page(write_group(tmp_path).html).text
    assert "Limited comparability: different thresholds: 0.4 (1 visit), 0.5 (1 visit)" in text
    assert "different minimum lesion volumes in mm³: 3 (1 visit), n/a (1 visit)" in text
    assert "different models" not in text


def test_mixtures_ignore_failed_visits(make_record: Any) -> None:
    rows = group_rows([make_record(), VisitRecord("02", None, "", "failed", "x")])
    assert mixtures(rows) == []


def test_mixtures_count_visits_per_value() -> None:
    row = dict.fromkeys(("status", "model_sha256", "min_lesion_volume_mm3", "contrasts"), "ok")
    rows = [{**row, "threshold": threshold} for threshold in ("0.4", "0.4", "0.4", "0.5")]
    assert mixtures(rows) == ["different thresholds: 0.4 (3 visits), 0.5 (1 visit)"]


def test_write_group_is_deterministic(out_dir: Path) -> None:
    def written() -> dict[str, bytes]:
        write_group(out_dir)
        return {path.name: path.read_bytes() for path in out_dir.glob("group_*")}

    write_template_masks(out_dir, "01", "02")
    first = written()
    assert set(first) == {
        "group_lesions.tsv", "group_lesions.json", "group_lesions.html",
        "group_lesions_summary.tsv", "group_lesions_summary.json",
        "group_lesions_frequency.nii.gz", "group_lesions_frequency.json",
    }  # fmt: skip
    assert written() == first


def test_summary_is_grouped_by_participants_tsv_columns(
    tmp_path: Path, make_record: Any, read_page: Read
) -> None:
    for i, load in enumerate((1.0, 2.0, 6.0, 20.0)):
        write_record(tmp_path, make_record(f"{i}", None, lesion_load_ml=load))
    people = tmp_path / "participants.tsv"
    people.write_text("participant_id\tsite\tage\nsub-0\tA\t31\nsub-1\tA\t42\nsub-2\tB\t50.5\n")
    page = read_page(write_group(tmp_path, bids_dir=tmp_path).html)
    summary = load_tsv(tmp_path / "group_lesions_summary.tsv")
    found = {(row["column"], row["level"]): row["load_median_ml"] for row in summary}
    assert found == {
        ("everybody", "everybody"): "4",
        ("site", "A"): "1.5",
        ("site", "B"): "6",
        ("site", "n/a"): "20",
    }
    dictionary = json.loads((tmp_path / "group_lesions_summary.json").read_text())
    assert set(dictionary) == set(summary[0])
    data = page_data(tmp_path)
    assert data["levels"] == [["site", ["A", "A", "B", "n/a"]]]
    assert data["numbers"] == [["age", [31, 42, 50.5, None]]]
    assert data["summary"] == summary
    assert "group_lesions_summary.tsv" in page.all("a", "href")


def page_data(out_dir: Path) -> dict[str, Any]:
    """Read the JSON data that are embedded in the group page."""
    html = (out_dir / "group_lesions.html").read_text()
    found = re.search(r'id="data">(.*?)</script>', html, re.DOTALL)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_qc_corrects_loads_and_excludes_rejected_visits(
    out_dir: Path, save_review: Any, make_record: Any, read_page: Read, tmp_path: Path
) -> None:
    write_record(out_dir, make_record("02", None, flags=()))
    write_template_masks(out_dir, "02")
    kept = {"index": 2, "status": "kept", "volume_mm3": 50.0, "decision": "reject"}
    back = {"index": 4, "status": "rejected", "volume_mm3": 25.0, "decision": "keep"}
    save_review(tmp_path / "qc", lesions=[kept, back], rating="accept", rater="AB")
    save_review(tmp_path / "qc/b", participant="02", session=None, rating="reject")
    files = write_group(out_dir, qc_dir=tmp_path / "qc")
    first, *_, last = load_tsv(files.tsv)
    assert (first["lesion_load_ml"], first["qc_lesion_load_ml"]) == ("12.5", "12.475")
    assert (first["lesion_count"], first["qc_lesion_count"]) == ("31", "31")
    assert (first["qc_rejected_count"], first["qc_restored_count"]) == ("1", "1")
    assert (first["qc_rating"], first["qc_rater"]) == ("accept", "AB")
    assert (last["qc_rating"], last["lesion_load_ml"]) == ("reject", "12.5")
    assert (last["qc_lesion_load_ml"], last["qc_lesion_count"]) == ("n/a", "n/a")
    assert set(first) == set(json.loads(files.tsv.with_suffix(".json").read_text()))
    page = read_page(files.html)
    assert "QC ratings: 2 visits reviewed, 1 visit rejected" in page.text
    struck = [a["data-participant"] for t, a in page.elements if t == "tr" and "class" in a]
    assert struck == ["sub-02"]
    data = page_data(out_dir)
    assert data["loads"] == [12.475, None, None, None]
    assert data["excluded"] == [3]


def test_group_table_without_qc_has_no_qc_columns(out_dir: Path) -> None:
    assert not [name for name in load_tsv(write_group(out_dir).tsv)[0] if name.startswith("qc")]


def test_frequency_map_counts_each_participant_once(out_dir: Path, make_record: Any) -> None:
    write_record(out_dir, make_record("02", None))
    write_record(out_dir, make_record("01", "3"))
    write_template_masks(out_dir, "01", "02", "01_ses-3")
    write_group(out_dir)
    share = nib.load(out_dir / "group_lesions_frequency.nii.gz")
    values = np.asarray(share.dataobj)
    assert sorted(np.unique(values)) == [0, 0.5, 1]
    beside = json.loads((out_dir / "group_lesions_frequency.json").read_text())
    assert (beside["Participants"], beside["MostParticipants"]) == (2, 2)
    (out_dir / "logs/visits/sub-02.json").unlink()
    write_group(out_dir)
    assert not (out_dir / "group_lesions_frequency.nii.gz").exists()


def write_template_masks(out_dir: Path, *visits: str) -> None:
    """Write masks in template space: one lesion common to all visits, and one of each visit."""
    grid = Volume(np.zeros((12, 14, 10), np.uint8), np.diag([8.0, 8, 8, 1]))
    for number, name in enumerate(visits):
        participant, _, session = name.partition("_ses-")
        session = session or ("1" if participant == "01" else "")
        data = np.zeros(grid.shape, np.uint8)
        data[4:6, 5:8, 5] = 1
        data[2, 2 + number, 5] = 1
        visit = Visit(participant, session or None, Path())
        path = mask_in("MNI152NLin2009aSym", 1).path(out_dir, visit, ".nii.gz")
        path.parent.mkdir(parents=True, exist_ok=True)
        save_volume(grid.with_data(data), path)
        if not read_record(out_dir, participant, visit.session):
            write_record(out_dir, VisitRecord(participant, visit.session, visit.key, "ok"))


def test_notes_list_visits_without_result_or_participants_row(
    out_dir: Path, tmp_path: Path
) -> None:
    bids = tmp_path / "bids"
    bids.mkdir()
    (bids / "participants.tsv").write_text("participant_id\tsex\n07\tM\n")
    without, absent = write_group(out_dir, bids_dir=bids).notes
    names = "sub-01_ses-2 (failed), sub-01_ses-10 (skipped)"
    assert without == f"2 of 3 visits without a result: {names}; the group table says why"
    assert absent == "not in participants.tsv: sub-01"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "n/a"),
        ({"compared_with": "1", "fingerprint": "f", "n_new": 0}, "ses-1"),
        ({"compared_with": "1", "fingerprint": "f", "failed": "turned", "hint": "look"}, "n/a"),
        ({"compared_with": "1", "failed": "a file is missing", "hint": "run again"}, "n/a"),
    ],
)
def test_compared_with_is_set_only_if_comparison_succeeded(
    make_record: Any, changes: dict[str, Any], expected: str
) -> None:
    (row,) = group_rows([dataclasses.replace(make_record("01", "2"), changes=changes)])
    assert row["compared_with"] == expected


def test_complete_cohort_has_no_notes(tmp_path: Path, make_record: Any) -> None:
    write_record(tmp_path, make_record("01", None))
    assert write_group(tmp_path, bids_dir=tmp_path).notes == ()


def test_damaged_records_become_failed_rows(tmp_path: Path, make_record: Any) -> None:
    good = write_record(tmp_path, make_record("01", None))
    content = json.loads(good.read_text())
    spoilt: dict[str, dict[str, Any]] = {
        "02": {"participant": ""},
        "03": {"session": ""},
        "04": {"prefix": "sub-04_acq-"},
        "05": {"changes": {"n_new": "many"}},
        "06": {"flags": ["\ud800"]},
        "07": {"lesion_load_ml": -5},
        "08": {"participant": "01"},
    }
    for label, more in spoilt.items():
        changed = {**content, "participant": label, "prefix": f"sub-{label}", **more}
        good.with_name(f"sub-{label}.json").write_text(json.dumps(changed))
    os.mkfifo(good.with_name("sub-09.json"))
    rows = load_tsv(write_group(tmp_path).tsv)
    assert [row["participant_id"] for row in rows] == [f"sub-0{n}" for n in range(1, 10)]
    assert [row["status"] for row in rows] == ["ok", *["failed"] * 8]
    assert all(f"{row['participant_id']}.json cannot be read" in row["reason"] for row in rows[1:])
    everybody = load_tsv(tmp_path / "group_lesions_summary.tsv")[0]
    assert (everybody["visits"], everybody["load_min_ml"]) == ("1", "12.5")


def test_folder_at_path_of_frequency_map_raises_error(out_dir: Path) -> None:
    (out_dir / "group_lesions_frequency.nii.gz").mkdir()
    with pytest.raises(CannotCreateError, match=r"group_lesions_frequency\.nii\.gz"):
        write_group(out_dir)


def test_write_group_without_records_raises_error_with_hint(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match="run the participant level"):
        write_group(tmp_path)


def test_unwritable_group_table_raises_error(out_dir: Path) -> None:
    (out_dir / "group_lesions.tsv").mkdir()
    with pytest.raises(CannotCreateError, match=r"group_lesions\.tsv"):
        write_group(out_dir)


@pytest.mark.slow
def test_group_table_of_1000_visits_has_1000_rows(tmp_path: Path, make_record: Any) -> None:
    for number in range(1000):
        write_record(tmp_path, make_record(f"{number:04d}", "1"))
    assert len(load_tsv(write_group(tmp_path).tsv)) == 1000


@pytest.mark.parametrize("visits", [1, ROWS, ROWS + 1, 2 * ROWS])
def test_static_group_page_has_first_rows_and_table_links(
    tmp_path: Path, make_cohort: Any, read_page: Read, visits: int
) -> None:
    page = read_page(write_group(tmp_path, records=make_cohort(visits)).html)
    rows = [attrs for tag, attrs in page.elements if tag == "tr" and "data-participant" in attrs]
    assert len(rows) == min(visits, ROWS)
    assert (f"first {ROWS} of {visits} visits" in page.text) is (visits > ROWS)
    assert page.all("a", "href").count("group_lesions.tsv") == 2


def test_group_page_grows_by_less_than_250_bytes_per_visit(
    tmp_path: Path, make_cohort: Any
) -> None:
    sizes = {}
    for visits in (600, 2600):
        write_group(tmp_path, records=make_cohort(visits))
        sizes[visits] = (tmp_path / "group_lesions.html").stat().st_size
    assert (sizes[2600] - sizes[600]) / 2000 < 250
    assert sizes[600] < 400_000


def test_large_cohort_page_links_pictures_and_embeds_none(
    out_dir: Path, read_page: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bids_msseg.reports.group.page.MAX_EMBEDDED", 2)
    page = read_page(write_group(out_dir).html)
    file = "sub-01/figures/sub-01_ses-1_desc-lesions_FLAIR.png"
    assert page_data(out_dir)["pictures"] == [file, None, None]
    assert (out_dir / file).is_file()
    assert "img-src data: 'self' file:;" in page.all("meta", "content")[0]
