"""Hostile text in all fields of a page: it is escaped, and local folders are not shown."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bids_msseg.bids.files import write_tsv
from bids_msseg.bids.record import VisitRecord, write_record
from bids_msseg.bids.record_values import ContrastUse, ModelUse
from bids_msseg.reports.group.report import write_group
from bids_msseg.reports.page import json_block
from bids_msseg.reports.participant import write_participant_page

EVIL = "</script></style><script>document.title='ran'</script><img src=x onerror=alert(1)>\"'&<!--"
FOLDER = "/home/doe/secret study/data"
ACTIVE = {"onerror", "onload", "onclick", "href", "src", "action", "formaction", "srcdoc"}


def test_json_block_escapes_tags() -> None:
    assert str(json_block({"a": ["</script>", 1]})) == r'{"a":["\u003c/script\u003e",1]}'


def hostile(record: VisitRecord) -> VisitRecord:
    """Put the hostile text into every text field of a record."""
    uses = {
        name: ContrastUse(EVIL, use.spacing_mm, use.used, EVIL)
        for name, use in record.contrasts.items()
    }
    return replace(
        record,
        reason=record.reason and EVIL,
        hint=record.hint and EVIL,
        crash_files=("javascript:alert(1)",) * len(record.crash_files),
        contrasts=uses,
        model=record.model and ModelUse(EVIL, EVIL, EVIL, EVIL, EVIL, EVIL, (EVIL,)),
        options=dict.fromkeys(record.options, EVIL),
        flags=(EVIL,) * len(record.flags),
        notes=(EVIL, *record.notes),
        versions=dict.fromkeys(record.versions, EVIL),
        methods=record.methods and EVIL,
        load_interval_reason=EVIL,
        load_interval_note=EVIL,
        lesion_mask=EVIL,
        exclude_masks=(EVIL,),
        quality_reasons=(EVIL,),
    )


def plain(record: VisitRecord) -> VisitRecord:
    """Fill the same fields with a harmless word."""
    text = json.dumps(hostile(record).to_dict()).replace("javascript:alert(1)", "word")
    return VisitRecord.from_dict(json.loads(text.replace(json.dumps(EVIL)[1:-1], "word")))


@pytest.fixture
def pages(
    out_dir: Path, make_record: Callable[..., VisitRecord], tmp_path: Path
) -> Callable[..., dict[str, Path]]:
    """Return a function that changes all records with ``change`` and writes all pages."""

    def make(change: Callable[[VisitRecord], VisitRecord], word: str) -> dict[str, Path]:
        bids = tmp_path / "bids"
        bids.mkdir(exist_ok=True)
        description = {"Name": word, "BIDSVersion": "1.10.1", "Authors": [word]}
        (bids / "dataset_description.json").write_text(json.dumps(description))
        people = [
            {"participant_id": f"sub-0{n}", "sex": word, "site": f"{word}{n}"} for n in (1, 2)
        ]
        write_tsv(bids / "participants.tsv", ("participant_id", "sex", "site"), people)
        visits = [make_record(), make_record("02", None)]
        visits.append(VisitRecord("01", "2", "sub-01_ses-2", "failed", "why", "hint", ("logs/x",)))
        visits.append(VisitRecord("01", "10", "", "skipped", "why", "hint"))
        for record in visits:
            write_record(out_dir, change(record))
        page = write_participant_page(out_dir, "01")
        group = write_group(out_dir, bids_dir=bids)
        return {"participant": page, "group": group.tsv.with_suffix(".html")}

    return make


@pytest.mark.parametrize("kind", ["participant", "group"])
def test_hostile_text_adds_no_elements_or_active_attributes(
    pages: Callable[..., dict[str, Path]], read_page: Callable[..., Any], kind: str
) -> None:
    harmless = read_page(pages(plain, "word")[kind])
    page = read_page(pages(hostile, EVIL)[kind])
    assert page.tags == harmless.tags
    for tag, attributes in page.elements:
        active = {name: value for name, value in attributes.items() if name in ACTIVE}
        assert not {name for name in attributes if name.startswith("on")}, tag
        for value in active.values():
            # a link may contain the text percent-encoded (%3C...), which is harmless
            assert not re.search(r"[<>\"']", value or ""), tag
            assert not re.match(r"(?!data:|https:)[a-z]+:", value or "", re.IGNORECASE), tag


def test_page_shows_hostile_text_escaped(
    pages: Callable[..., dict[str, Path]], read_page: Callable[..., Any]
) -> None:
    """The page escapes the text and does not drop it, so that the fault in the data is visible."""
    assert "document.title='ran'" in read_page(pages(hostile, EVIL)["participant"]).text


@pytest.mark.parametrize("kind", ["participant", "group"])
def test_pages_contain_no_local_folders(pages: Callable[..., dict[str, Path]], kind: str) -> None:
    def placed(record: VisitRecord) -> VisitRecord:
        name = f"{FOLDER.replace(' ', '_')}/sub-01_FLAIR.nii.gz"
        return replace(
            record,
            reason=record.reason and f"cannot read {name}",
            hint=record.hint and f"look at {name}",
            notes=(f"found {name}",),
            flags=(f"look at {name}",),
            contrasts={
                key: replace(use, file=name, note=name) for key, use in record.contrasts.items()
            },
        )

    text = pages(placed, "word")[kind].read_text(encoding="utf-8")
    assert "/home/doe" not in text
    assert "secret" not in text
