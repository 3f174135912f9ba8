from __future__ import annotations

import base64
import dataclasses
import gzip
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from bids_msseg.bids.derivatives import OUTPUTS
from bids_msseg.bids.record import VisitRecord, recorded_visit, write_record
from bids_msseg.bids.record_values import ContrastUse, ModelUse
from bids_msseg.bids.visit import Visit
from bids_msseg.errors import CannotCreateError, NoInputError, UsageError
from bids_msseg.imaging.volume import load_volume
from bids_msseg.reports.images.drawing import draw_visit
from bids_msseg.reports.participant import OrderView, order_view, write_participant_page

Read = Callable[[Path | str], Any]
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7*7 }}"


def test_participant_page_shows_results_of_visit(out_dir: Path, read_page: Read) -> None:
    path = write_participant_page(out_dir, "01")
    assert path == out_dir / "sub-01.html"
    text = read_page(path).text
    for expected in (
        "lesion load 12.5 mL",
        "lesions 31",
        "of the brain volume, 1250 mL 1.00 %",
        "rejected of 45 candidates 14",
        "periventricular 8.00 mL (main region of 9 lesions)",
        "infratentorial 0.00 mL (main region of no lesions)",
        "deep white matter 2.00 mL (main region of 10 lesions)",
        "by lesions of the brain: shown . Spinal cord and optic nerve not assessed.",
        "Quality flag: The slices are thick.",
        "Research use only; not for diagnostic use",
        "T1w 1.00x1.00x1.00 used: two runs",
        "T2w 1.00x1.00x5.00 not used: cut off",
        "FLAIR 0.57x0.57x3.30 used",
        "first, version 0.1.0",
        "0123456789abcdef" * 4,
        "min lesion volume mm3 3.0",
        "1 min 23 s, sum of all steps",
        "Second one, doi:10.1016/x.",
        "doi 10.21105/joss.01294 (pybids)",
    ):
        assert expected in text


def test_external_segmenter_is_named_and_cited(
    tmp_path: Path, make_record: Any, read_page: Read
) -> None:
    other = ModelUse("SEG", "2", "ab" * 32, "command", "MIT", "Doe 2020", ("FLAIR",))
    for model, shown in ((other, True), (make_record().model, False)):
        record = make_record(model=model, methods="How it was done.")
        text = read_page(write_participant_page(tmp_path, "01", records=[record])).text
        assert ("Segmented by SEG 2" in text) == shown
        assert ("licence MIT" in text) == shown
        assert text.count("Doe 2020") == (2 if shown else 0)
        # Valverde is cited only if the networks of bids_msseg were run
        assert ("Valverde" in text) != shown


def test_brain_volumes_are_listed_if_known(
    tmp_path: Path, make_record: Any, read_page: Read
) -> None:
    measures = {"ventricles_ml": 31.25, "brain_parenchymal_fraction": 0.81234}
    for known, shown in ((measures, True), ({}, False)):
        record = make_record(brain_measures=known)
        text = read_page(write_participant_page(tmp_path, "01", records=[record])).text
        assert ("ventricles 31.2 mL" in text) == shown
        assert ("brain parenchymal fraction 0.8123" in text) == shown


def test_failed_visit_shows_reason_hint_and_crash_file(out_dir: Path, read_page: Read) -> None:
    page = read_page(write_participant_page(out_dir, "01"))
    assert "This visit failed cannot read …/sub-01_ses-2_FLAIR.nii.gz: it is cut off" in page.text
    assert "Hint: fetch it again" in page.text
    assert "logs/crash-sub-01_ses-2.txt" in page.all("a", "href")
    assert "This visit was skipped there is no FLAIR" in page.text


def test_page_names_given_lesion_mask(
    out_dir: Path, make_record: Callable[..., VisitRecord], read_page: Read
) -> None:
    uri = "bids:manual:sub-01/ses-1/anat/sub-01_ses-1_label-L_mask.nii.gz"
    given = make_record(lesion_mask=uri, model=None, candidate_count=None, rejected_count=14)
    text = read_page(write_participant_page(out_dir, "01", records=[given])).text
    assert uri in text
    assert "14 rejected components of the given mask" in text
    assert "mean probability" not in text
    networks = read_page(write_participant_page(out_dir, "01", records=[make_record()])).text
    assert "given mask" not in networks
    assert "14 rejected candidates found by the candidate net" in networks
    assert "mean probability" in networks


def test_exclusion_masks_are_named(
    out_dir: Path, make_record: Callable[..., VisitRecord], read_page: Read
) -> None:
    uris = tuple(f"bids:{name}:sub-01/anat/sub-01_mask.nii.gz" for name in ("infarct", "tumour"))
    masked = make_record(exclude_masks=uris, excluded_ml=1.2345)
    text = read_page(write_participant_page(out_dir, "01", records=[masked])).text
    assert "1.23 mL of lesion were removed" in text
    assert all(uri in text for uri in uris)
    plain = read_page(write_participant_page(out_dir, "01", records=[make_record()])).text
    assert "exclusion masks" not in plain


def test_order_view_lists_sessions_and_source() -> None:
    source = "the session labels"
    records = [
        VisitRecord("01", session, "", "ok", visit_number=number, order_source=source)
        for session, number in (("M6", 1), ("M12", 2))
    ]
    assert order_view(records) == OrderView(("M6", "M12"), source, known=True, hint="")


def test_visits_are_in_natural_order_with_anchors(out_dir: Path, read_page: Read) -> None:
    page = read_page(write_participant_page(out_dir, "01"))
    sections = list(page.all("section", "id"))
    assert sections == ["ses-1", "ses-2", "ses-10"]
    assert {"#ses-1", "#ses-2", "#ses-10"} <= set(page.all("a", "href"))
    assert "A difference between two visits includes the errors of both masks" in page.text


def test_page_of_single_visit_has_no_overview(
    tmp_path: Path, make_record: Any, read_page: Read
) -> None:
    page = read_page(write_participant_page(tmp_path, "01", records=[make_record(session=None)]))
    assert page.tags["nav"] == 0
    assert page.all("section", "id") == ["visit"]
    assert "There is no picture of the lesions" in page.text
    assert "There is no lesion table" in page.text


def test_tables_list_every_lesion_and_rejected_candidate(out_dir: Path, read_page: Read) -> None:
    page = read_page(write_participant_page(out_dir, "01"))
    assert "31 lesions, in order of decreasing volume" in page.text
    assert "14 rejected candidates" in page.text
    assert "31 3.2 1 deep white matter -12, 4, 31 -11, 6, 28 0.91 0.87" in page.text
    assert page.text.count("the second net gave 0.12") == 14
    folded = [attrs for tag, attrs in page.elements if tag == "details"]
    assert all("open" not in attrs for attrs in folded)
    assert "sub-01/ses-1/anat/sub-01_ses-1_desc-lesions_stats.tsv" in page.all("a", "href")


def test_lesion_rows_have_index_and_point_inside_lesion(out_dir: Path, read_page: Read) -> None:
    page = read_page(write_participant_page(out_dir, "01"))
    rows = [attrs for tag, attrs in page.elements if tag == "tr" and "data-index" in attrs]
    assert len(rows) == 45
    assert rows[0]["data-volume"] == "100"
    x, y, z = map(float, (rows[0]["data-mm"] or "").split())
    assert (x - 12) ** 2 + y**2 + (z - 4) ** 2 <= 36
    assert "data-mm" not in rows[2]  # the image holds two lesions only
    assert (rows[31]["data-status"], rows[31]["data-index"]) == ("rejected", "1")
    assert float((rows[31]["data-mm"] or "0").split()[0]) < -6


def test_viewer_embeds_images_as_layers(out_dir: Path, read_page: Read) -> None:
    html = write_participant_page(out_dir, "01").read_text()
    layers = dict(re.findall(r'id="ses-1-layer-(\w+)">([^<]+)</script>', html))
    assert list(layers) == ["FLAIR", "T1w", "lesions", "rejected", "probability"]
    flair = nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(layers["FLAIR"])))
    assert np.asarray(flair.dataobj).max() == 127
    page = read_page(html)
    assert "FLAIR T1w Flicker" in page.text
    assert "needs a browser with JavaScript and WebGL 2" in page.text


@pytest.mark.parametrize(
    ("used", "shown"),
    [
        ({"FLAIR": True, "T1w": True}, ["FLAIR", "T1w"]),
        ({"FLAIR": True, "T1w": False}, ["FLAIR"]),
        ({"FLAIR": True}, ["FLAIR"]),
        ({"FLAIR": True, "T2w": True}, ["FLAIR"]),
        ({}, ["FLAIR", "T1w"]),
    ],
)
def test_viewer_omits_unused_contrasts(
    out_dir: Path, make_record: Any, used: dict[str, bool], shown: list[str]
) -> None:
    """The output folder contains a FLAIR and a T1w image."""
    uses = {name: ContrastUse("x.nii.gz", (1.0, 1.0, 1.0), used=one) for name, one in used.items()}
    record = make_record(contrasts=uses)
    html = write_participant_page(out_dir, "01", records=[record]).read_text()
    layers = re.findall(r'id="ses-1-layer-(\w+)">', html)
    assert layers == [*shown, "lesions", "rejected", "probability"]


def test_page_without_images_has_no_viewer(tmp_path: Path, make_record: Any) -> None:
    html = write_participant_page(tmp_path, "01", records=[make_record()]).read_text()
    assert "niivue" not in html
    assert "<script" not in html


def test_page_states_that_no_lesion_was_found(
    tmp_path: Path, make_record: Any, read_page: Read
) -> None:
    record = make_record(lesion_load_ml=0.0, lesion_count=0, flags=(), regions={})
    text = read_page(write_participant_page(tmp_path, "01", records=[record])).text
    assert "No lesion was found." in text
    assert "No lesion was found, so the table is empty." in text
    assert "No quality flag. Automatic checks miss some errors" in text


def test_pictures_are_embedded_described_and_switchable(out_dir: Path, read_page: Read) -> None:
    page = read_page(write_participant_page(out_dir, "01"))
    images = [attrs for tag, attrs in page.elements if tag == "img"]
    assert len(images) == 6
    assert all((attrs["src"] or "").startswith("data:image/png;base64,") for attrs in images)
    assert all(len(attrs["alt"] or "") > 60 for attrs in images)
    assert "FLAIR, lesions outlined." in (images[0]["alt"] or "")
    assert "patient's left is on the right" in (images[0]["alt"] or "")
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert set(page.all("label", "for")) == set(page.all("input", "id"))
    inputs = [attrs for tag, attrs in page.elements if tag == "input" and "id" in attrs]
    assert sum("checked" in attrs for attrs in inputs) == 3


def test_participant_page_is_self_contained_with_strict_csp(
    out_dir: Path, read_page: Read
) -> None:
    path = write_participant_page(out_dir, "01")
    page = read_page(path)
    running = [a for tag, a in page.elements if tag == "script" and "type" not in a]
    assert len(running) == 3
    links = page.all("a", "href") + page.all("link", "href") + page.all("img", "src")
    assert not [link for link in links if re.match(r"(https?:)?//", link)]
    policy = page.all("meta", "content")[0]
    start = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src"
    assert re.fullmatch(re.escape(start) + r"( 'sha256-[A-Za-z0-9+/]{43}='){3}", policy)
    assert path.stat().st_size < 4_000_000


def test_participant_page_contains_no_local_paths(out_dir: Path) -> None:
    html = write_participant_page(out_dir, "01").read_text()
    assert str(out_dir.parent) not in html
    assert str(Path.home()) not in html or str(Path.home()) == "/"


def test_participant_page_escapes_text_from_data(
    out_dir: Path, make_record: Any, read_page: Read
) -> None:
    visit = Visit("01", "1", Path())
    table = OUTPUTS["lesion_stats"].path(out_dir, visit, ".tsv")
    table.write_text(f"index\tregion\tstatus\treason\n{EVIL}\t{EVIL}\tkept\t{EVIL}\n")
    record = make_record(
        # the viewer shows only contrasts that were used
        contrasts=make_record().contrasts | {EVIL: ContrastUse(EVIL, (1.0, 1.0, 1.0), note=EVIL)},
        model=ModelUse(EVIL, EVIL, EVIL),
        options={EVIL: EVIL},
        regions={EVIL: (1.0, 1)},
        flags=(EVIL,),
        notes=(EVIL,),
        timings_s={EVIL: 1.0},
        fingerprint=EVIL,
        versions={EVIL: EVIL},
        methods=EVIL,
    )
    failed = VisitRecord("01", "2", "sub-01_ses-2", "failed", EVIL, EVIL, (EVIL,))
    page = read_page(write_participant_page(out_dir, "01", records=[record, failed]))
    assert "{{ 7*7 }}" in page.text
    assert page.tags["script"] == 8  # five layers and three scripts of the page
    assert not [attrs for _, attrs in page.elements if "onerror" in attrs]
    assert page.text.count("<script>alert(1)") >= 15
    assert {attrs["src"][:5] for tag, attrs in page.elements if tag == "img"} == {"data:"}


def test_participant_page_is_deterministic(out_dir: Path) -> None:
    first = write_participant_page(out_dir, "01").read_bytes()
    assert write_participant_page(out_dir, "01").read_bytes() == first


def test_records_of_other_participants_are_ignored(out_dir: Path, make_record: Any) -> None:
    write_record(out_dir, make_record(participant="011"))
    own = write_participant_page(out_dir, "01").read_text()
    assert "sub-011" not in own
    records = [make_record(participant="011"), make_record(participant="01")]
    assert "sub-011" not in write_participant_page(out_dir, "01", records=records).read_text()


def test_unreadable_record_is_shown_as_failed_visit(tmp_path: Path, read_page: Read) -> None:
    broken = tmp_path / "logs" / "visits" / "sub-01_ses-1.json"
    broken.parent.mkdir(parents=True)
    broken.write_text("{")
    text = read_page(write_participant_page(tmp_path, "01")).text
    assert "This visit failed" in text
    assert "process the visit again" in text


def test_participant_without_records_raises_error_with_hint(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match="run the participant level"):
        write_participant_page(tmp_path, "01")


def test_invalid_participant_label_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        write_participant_page(tmp_path, "../01")


def test_unwritable_participant_page_raises_error(tmp_path: Path, make_record: Any) -> None:
    (tmp_path / "sub-01.html").mkdir()
    with pytest.raises(CannotCreateError, match=r"sub-01\.html"):
        write_participant_page(tmp_path, "01", records=[make_record()])


def test_crash_files_outside_logs_link_to_logs_folder(
    tmp_path: Path, make_record: Any, read_page: Read
) -> None:
    record = dataclasses.replace(
        make_record(), status="failed", crash_files=("/scratch/x/crash a.txt", "../crash-b.txt")
    )
    page = read_page(write_participant_page(tmp_path, "01", records=[record]))
    assert {"logs/crash%20a.txt", "logs/crash-b.txt"} <= set(page.all("a", "href"))
    assert "/scratch" not in page.text


@pytest.mark.parametrize(
    ("participant", "session", "prefix"),
    [
        ("01", None, "sub-01"),
        ("01", "pre", "sub-01_ses-pre_acq-3D_ce-gd_rec-norm_run-02"),
        ("01", "1", ""),
    ],
)
def test_recorded_visit_restores_file_prefix(
    participant: str, session: str | None, prefix: str
) -> None:
    visit = recorded_visit(VisitRecord(participant, session, prefix, "ok"))
    assert visit.prefix == (prefix or "sub-01_ses-1")


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize("patient", ["lj19", "tz04"])
def test_page_of_real_images_is_smaller_than_4_mb(
    patient: str, shared_data: Path, tmp_path: Path, make_record: Any
) -> None:
    cohort = shared_data / "ms-cohort"
    manual = cohort / f"derivatives/manual/sub-{patient}/anat/sub-{patient}_space-FLAIR_"
    flair = load_volume(cohort / f"sub-{patient}/anat/sub-{patient}_FLAIR.nii.gz")
    record = make_record(patient, None)
    draw_visit(
        tmp_path,
        recorded_visit(record),
        flair=flair,
        brain=load_volume(f"{manual}desc-brain_mask.nii.gz"),
        lesions=load_volume(f"{manual}label-L_mask.nii.gz"),
        rejected=flair.with_data(0 * flair.data),
        moving={"T1w": flair, "T2w": flair, "MNI152NLin2009aSym": flair},
    )
    page = write_participant_page(tmp_path, patient, records=[record])
    assert 1_000_000 < page.stat().st_size < 4_000_000
