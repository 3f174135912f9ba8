from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bids_msseg.bids.record import VisitRecord
from bids_msseg.reports.group.data import MAX_FLAGS, OTHER_FLAG, pack, shorten, sort_flags
from bids_msseg.reports.group.report import write_group

Make = Callable[[int], tuple[VisitRecord, ...]]


def unpack(packed: Any) -> list[Any]:
    """Decode packed values as the script of the page does."""
    if isinstance(packed, list):
        return packed
    return [packed["levels"][code] for code in packed["codes"]]


@pytest.mark.parametrize(
    "values",
    [["a"], ["a", "a"], ["a", "b", "c"], [None, "1", None, "2"], [(), (0,), (), (0, 2), ()]],
)
def test_pack_is_lossless(values: list[Any]) -> None:
    assert unpack(pack(values)) == values


def test_pack_encodes_repeated_values() -> None:
    packed = pack(["ok", "ok", "failed", "ok"])
    assert packed == {"levels": ["ok", "failed"], "codes": [0, 0, 1, 0]}
    assert pack(["a", "b", "c"]) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, None), (0.0, "0"), (12.475, "12.475"), (1234.56789, "1234.57"), (20.0, "20")],
)
def test_shorten_keeps_six_significant_digits(value: float | None, expected: str | None) -> None:
    assert json.dumps(shorten(value)) == (expected or "null")


def record(*flags: str, quality: tuple[str, ...] | None = None) -> VisitRecord:
    return VisitRecord("01", None, "", "ok", flags=flags, quality_reasons=quality)


@pytest.mark.parametrize(
    ("flags", "kind"),
    [
        ("T1w: it fits by 0.43 only", "T1w: it fits by … only"),
        ("FLAIR: slices of 5 mm", "FLAIR: slices of … mm"),
        ("template: .4 of MNI152", "template: … of MNI152"),
        ("cannot read /data/x/sub-a.nii.gz", "cannot read …/sub-a.nii.gz"),
    ],
)
def test_flag_kind_omits_numbers_and_folders(flags: str, kind: str) -> None:
    assert sort_flags([record(flags)]).kinds == ((kind, 1),)


def test_sort_flags_counts_image_quality_reasons() -> None:
    found = sort_flags([record("a", quality=("b",)), record(), record(quality=("b", "b"))])
    assert found.kinds == (("b", 2), ("a", 1))
    assert found.visits == ((0, 1), (), (0,))
    assert found.flagged == 2


def test_sort_flags_groups_rare_kinds_as_other() -> None:
    kinds = [f"flag {chr(97 + i)}" for i in range(MAX_FLAGS + 3)]
    found = sort_flags([record(kind) for kind in kinds] + [record(*kinds)])
    assert len(found.kinds) == MAX_FLAGS
    assert found.kinds[0] == ("flag a", 2)
    assert found.kinds[-1] == (OTHER_FLAG, 5)  # four visits with one flag, one with all
    assert found.visits[-1] == tuple(range(MAX_FLAGS))


def test_page_data_contains_every_visit_once(tmp_path: Path, make_cohort: Make) -> None:
    records = make_cohort(600)
    html = write_group(tmp_path, records=records).html.read_text(encoding="utf-8")
    text = html.partition('id="data">')[2].partition("</script>")[0]
    data = json.loads(text)
    assert text == json.dumps(data, separators=(",", ":"))
    columns = {column["name"]: unpack(column["values"]) for column in data["columns"]}
    assert next(iter(columns)) == "participant_id"
    assert {len(values) for values in columns.values()} == {600}
    assert columns["participant_id"] == [f"sub-{one.participant}" for one in records]
    assert unpack(data["sessions"]) == [one.session for one in records]
    loads = [one.lesion_load_ml for one in records]
    assert data["loads"] == pytest.approx(loads)
    assert columns["lesion_load_ml"] == pytest.approx(loads)
    assert columns["flags"][99] == "the FLAIR image is cut off"
    assert [bool(one) for one in unpack(data["flags"])] == [i % 5 == 0 for i in range(600)]
    assert data["pictures"] == []
    (kind, amounts), *_ = data["regions"]
    assert (kind, amounts[98:100]) == ("periventricular", [8, None])
