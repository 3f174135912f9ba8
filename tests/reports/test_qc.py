from __future__ import annotations

import json
import os
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bids_msseg.bids.visit import Visit
from bids_msseg.errors import DataError, NoInputError
from bids_msseg.reports.qc import FORMAT, Review, mask_digest, parse, read_reviews

VISIT = Visit("01", "1", Path())
VISITS = {VISIT.key: VISIT}
WRONG = {"index": 1, "status": "kept", "volume_mm3": 100.0, "decision": "reject"}
Save = Callable[..., Path]


def schema() -> Any:
    file = resources.files("bids_msseg").joinpath("data/qc.schema.json")
    return json.loads(file.read_text(encoding="utf-8"))


def test_saved_qc_file_is_read_as_review(out_dir: Path, save_review: Save, tmp_path: Path) -> None:
    folder = tmp_path / "qc"
    missed = {"index": 2, "status": "rejected", "volume_mm3": 50.0, "decision": "keep"}
    path = save_review(folder, lesions=[WRONG, missed], rating="unsure", rater="AB", comment="?")
    review = read_reviews(folder, out_dir, VISITS)["sub-01_ses-1"]
    assert review == Review(path.name, "AB", "?", "unsure", (100.0,), (50.0,))
    assert review.load_ml(1.0) == pytest.approx(0.95)
    assert review.count(31) == 31
    jsonschema.validate(json.loads(path.read_text()), schema())


def test_review_of_rejected_visit_has_no_load_or_count() -> None:
    review = Review("f", "", "", "reject", (), ())
    assert review.load_ml(5.0) is None
    assert review.count(5) is None


def test_qc_file_of_another_mask_is_refused(
    out_dir: Path, save_review: Save, tmp_path: Path
) -> None:
    save_review(tmp_path / "qc", mask_sha256="0" * 64)
    with pytest.raises(DataError, match=r"another mask of sub-01_ses-1 \(000000000000…") as caught:
        read_reviews(tmp_path / "qc", out_dir, VISITS)
    assert mask_digest(out_dir, VISIT)[:12] in caught.value.message
    assert "current pages" in caught.value.hint


def test_error_lists_all_faults_of_qc_files(
    out_dir: Path, save_review: Save, tmp_path: Path
) -> None:
    folder = tmp_path / "qc"
    save_review(folder / "a")
    save_review(folder / "b")
    save_review(folder / "c", lesions=[{**WRONG, "volume_mm3": 99.0}])
    save_review(folder / "d", lesions=[WRONG, WRONG])
    save_review(folder / "e", participant="77", mask_sha256="")
    (folder / "sub-01_desc-qc_x.json").write_text("{")
    (folder / "f").mkdir()
    (folder / "f/sub-01_desc-qc_x.json").write_text('{"format": "other"}')
    with pytest.raises(DataError) as caught:
        read_reviews(folder, out_dir, VISITS)
    for fault in (
        "is also for sub-01_ses-1; keep one of them",
        "kept lesion 1 of 99 mm³ is not in the lesion table",
        "or occurs twice in the file",
        "sub-77_ses-1 is not among the recorded visits",
        "it is not JSON",
        f"its format is not {FORMAT}",
    ):
        assert fault in caught.value.message


def test_folder_without_qc_files_raises_error(out_dir: Path, tmp_path: Path) -> None:
    for folder in (tmp_path / "nothing", out_dir):
        with pytest.raises(NoInputError, match="no QC file"):
            read_reviews(folder, out_dir, VISITS)


def base(**more: object) -> dict[str, object]:
    content: dict[str, object] = {
        "format": FORMAT,
        "participant_id": "sub-01",
        "mask_sha256": "a" * 64,
        "lesions": [WRONG],
    }
    return {**content, **more}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"participant_id": 1}, "participant_id is not text"),
        ({"session_id": 1}, "session_id is neither text nor null"),
        ({"rating": "maybe"}, "rating is not one of accept, unsure, reject"),
        ({"lesions": {}}, "lesions is not a list"),
        ({"lesions": [{**WRONG, "decision": "keep"}]}, "lesions is not a list"),
        ({"lesions": [{**WRONG, "index": True}]}, "lesions is not a list"),
        ({"lesions": [{**WRONG, "volume_mm3": "1"}]}, "lesions is not a list"),
        ({"lesions": [{**WRONG, "status": []}]}, "lesions is not a list"),
        ({"rater": None}, "rater is not text"),
    ],
)
def test_parser_and_json_schema_refuse_same_content(change: dict[str, object], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        parse(json.dumps(base(**change)).encode())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(base(**change), schema())


@pytest.mark.parametrize("volume", ["1" + "0" * 400, "1e999", "NaN"])
def test_lesion_volume_out_of_range_is_refused(volume: str) -> None:
    raw = json.dumps(base(lesions=[{**WRONG, "volume_mm3": 77.5}])).replace("77.5", volume)
    with pytest.raises(ValueError, match="lesions is not a list"):
        parse(raw.encode())


def test_pipe_or_folder_as_qc_file_is_refused(out_dir: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "sub-01_desc-qc_a.json")
    (tmp_path / "sub-01_desc-qc_b.json").mkdir()
    with pytest.raises(DataError) as caught:
        read_reviews(tmp_path, out_dir, VISITS)
    assert "sub-01_desc-qc_a.json: it cannot be read: Not a regular file" in caught.value.message
    assert "sub-01_desc-qc_b.json: it cannot be read: Is a directory" in caught.value.message


@settings(max_examples=30)
@given(
    st.binary()
    | st.recursive(st.none() | st.text(), st.lists).map(lambda x: json.dumps(x).encode())
)
def test_parse_of_arbitrary_bytes_raises_value_error(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"JSON|format"):
        parse(raw)
