"""Group table of lesion loads per atlas region, and its summary on the page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bids_msseg.bids.derivatives import OUTPUTS
from bids_msseg.bids.files import write_tsv
from bids_msseg.bids.record import recorded_visit, write_record
from bids_msseg.bids.sidecars import atlas_dictionary
from bids_msseg.reports.atlas import (
    MAX_REGIONS,
    atlas_rows,
    group_atlas_dictionary,
    view_atlases,
)
from bids_msseg.reports.group.report import write_group
from bids_msseg.reports.participant import write_participant_page

Store = Callable[..., Any]


@pytest.fixture
def store(tmp_path: Path, make_record: Any) -> Store:
    """Return a function that writes a visit with regions (atlas, label, name, mL, share)."""

    def write(participant: str, *regions: tuple[object, ...], **more: Any) -> Any:
        record = make_record(participant, None, **more)
        names = ("atlas", "label", "name", "lesion_ml", "share")
        rows = [dict(zip(names, region, strict=True)) for region in regions]
        path = OUTPUTS["atlases"].path(tmp_path, recorded_visit(record), ".tsv")
        write_tsv(path, tuple(atlas_dictionary()), rows)
        write_record(tmp_path, record)
        return record

    return write


def test_atlas_rows_list_every_region_of_every_visit(store: Store, tmp_path: Path) -> None:
    records = [
        store("01", ("sides", 1, "left", 2.5, 0.1), ("sides", 0, "outside", 0.5, None)),
        store("02", ("sides", 1, "left", 1.0, 0.2)),
    ]
    rows = atlas_rows(tmp_path, records)
    assert all(list(row) == list(group_atlas_dictionary()) for row in rows)
    shown = [(row["participant_id"], row["session_id"], row["lesion_ml"]) for row in rows]
    assert shown == [("sub-01", "n/a", "2.5"), ("sub-01", "n/a", "0.5"), ("sub-02", "n/a", "1")]
    assert [row["share"] for row in rows] == ["0.1", "n/a", "0.2"]


def test_view_atlases_summarises_and_sorts_regions_by_load(store: Store, tmp_path: Path) -> None:
    records = [
        store("01", ("a", 1, "left", 0.0, 0.0), ("a", 2, "right", 3.0, 0.3), ("b", 1, "x", 1, 1)),
        store("02", ("a", 1, "left", 1.0, 0.1), ("a", 2, "right", 5.0, 0.5)),
        store("03", ("a", 1, "left", 2.0, 0.2), ("a", 2, "right", 0.0, 0.0)),
    ]
    first, second = view_atlases(atlas_rows(tmp_path, records))
    assert (first.name, first.visits, first.regions) == ("a", 3, 2)
    assert first.rows == (
        ("right", "2", "3.00", "5.00", "30.00"),
        ("left", "2", "1.00", "2.00", "10.00"),
    )
    assert (second.name, second.visits) == ("b", 1)


def test_view_atlases_lists_only_regions_with_largest_load(store: Store, tmp_path: Path) -> None:
    regions = [("a", label, f"region {label}", float(label), 0.1) for label in range(1, 50)]
    (view,) = view_atlases(atlas_rows(tmp_path, [store("01", *regions)]))
    assert view.regions == 49
    assert len(view.rows) == MAX_REGIONS
    assert view.rows[0][0] == "region 49"


def test_group_level_writes_and_shows_atlas_table(
    store: Store, tmp_path: Path, read_page: Any
) -> None:
    store("01", ("sides", 1, "left </td>", 2.5, 0.1))
    files = write_group(tmp_path)
    table = tmp_path / "group_lesions_atlas.tsv"
    assert len(table.read_text(encoding="utf-8").splitlines()) == 2
    assert table.with_suffix(".json").is_file()
    page = read_page(files.html)
    assert "left </td> 1 2.50 2.50 10.00" in page.text
    assert table.name in page.all("a", "href")
    own = read_page(write_participant_page(tmp_path, "01"))
    assert "sub-01/anat/sub-01_desc-atlases_stats.tsv" in own.all("a", "href")


def test_stale_atlas_table_is_removed(store: Store, tmp_path: Path) -> None:
    record = store("01", ("sides", 1, "left", 2.5, 0.1))
    write_group(tmp_path)
    OUTPUTS["atlases"].path(tmp_path, recorded_visit(record), ".tsv").unlink()
    html = write_group(tmp_path).html.read_text(encoding="utf-8")
    assert not list(tmp_path.glob("group_lesions_atlas*"))
    assert "group_lesions_atlas" not in html
