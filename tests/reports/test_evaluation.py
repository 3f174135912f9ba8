"""HTML of the evaluation page, without a browser."""

from __future__ import annotations

import base64
import io
import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bids_msseg.errors import CannotCreateError
from bids_msseg.reports.evaluation.data import TABLES
from bids_msseg.reports.evaluation.plots import agreement_plots, reliability_plot
from bids_msseg.reports.evaluation.report import plan_for, render_page, write_page
from bids_msseg.reports.evaluation.tables import (
    anchor_of,
    format_value,
    heading,
    lesion_anchor,
    pivot,
    sheet,
)

from .evaluations import FOUND_PAIR, MISSED_ONE, make_case, make_evaluation, two_cases

Read = Callable[[str], Any]
HOSTILE = 'x"><script>document.title="ran"</script><img src=http://away.invalid/x>&amp;'


def test_evaluation_page_is_self_contained(tmp_path: Path, read_page: Read) -> None:
    path = write_page(make_evaluation(*two_cases()), tmp_path)
    page = read_page(path)
    assert path == tmp_path / "evaluation.html"
    assert all(uri.startswith("data:") for uri in page.all("image", "href"))
    assert page.tags["img"] == 0
    assert {link for link in page.all("a", "href") if not link.startswith("#")} == {
        f"{stem}.tsv"
        for stem in ("cohort", "lesions", "reliability", "sites", "strata", "subjects")
    }
    assert "Slice-wise Dice is not used" in page.text
    assert "A note." in page.text
    assert "Research use only" in page.text


def test_segmenter_comparison_is_shown_only_with_its_table(read_page: Read) -> None:
    ends = {"low": 0.125, "high": 0.875, "difference_low": -0.25, "difference_high": 0.0}
    rows = [
        {"segmenter": name, "metric": "dice", "n_patients": 5, "n_visits": 6, "mean": mean,
         "difference": gain, "n_paired": 6, **ends}
        for name, mean, gain in (("ours", 0.5, math.nan), ("theirs", 0.375, -0.125))
    ]  # fmt: skip
    alone, both = (
        read_page(render_page(make_evaluation(*two_cases(), **tables)))
        for tables in ({}, {"segmenters": rows})
    )
    assert "Differences from ours" in both.text
    assert "theirs" in both.text
    for place, page in ((False, alone), (True, both)):
        assert ("#segmenters" in page.all("a", "href")) == place
        assert ("segmenters.tsv" in page.all("a", "href")) == place
        names = {attrs["id"] for _, attrs in page.elements if "id" in attrs}
        assert {link[1:] for link in page.all("a", "href") if link[0] == "#"} <= names


def test_internal_links_resolve_and_ids_are_unique(read_page: Read) -> None:
    page = read_page(render_page(make_evaluation(*two_cases())))
    names = Counter(attrs["id"] for _, attrs in page.elements if "id" in attrs)
    assert max(names.values()) == 1
    assert {link[1:] for link in page.all("a", "href") if link[0] == "#"} <= set(names)


def test_close_ups_and_lesion_rows_link_to_each_other(read_page: Read) -> None:
    html = render_page(make_evaluation(*two_cases()))
    for place in ("sub-01-manual-2", "sub-01-auto-2"):
        assert f'<li id="{place}-view"><a href="#{place}">' in html
        assert f'<tr id="{place}"><th scope="row"><a href="#{place}-view">' in html
    assert "sub-01-manual-1-view" not in html
    assert read_page(html).text.count("1 missed lesion") == 1


def test_agreement_plot_points_link_to_their_visit() -> None:
    case, other = two_cases()
    scatter, difference = agreement_plots([case.subject_row, other.subject_row], [])
    for drawn in (scatter, difference):
        assert [mark.link for mark in drawn.marks] == ["#sub-01", "#sub-02_ses-1"]
        assert [mark.group for mark in drawn.marks] == [0, 1]
    assert (scatter.marks[0].x, scatter.marks[0].y) == (
        case.subject_row["volume_manual_ml"],
        case.subject_row["volume_auto_ml"],
    )
    assert difference.marks[0].y == case.subject_row["volume_difference_ml"]


def test_bland_altman_lines_come_from_cohort_table() -> None:
    rows = [
        {"scope": "all", "statistic": f"bland_altman_{name}_ml", "value": value}
        for name, value in (("bias", 1.0), ("lower", math.nan), ("upper", 3.0))
    ]
    difference = agreement_plots([two_cases()[0].subject_row], rows)[1]
    words = [stroke.words for stroke in difference.strokes if stroke.words]
    assert words == ["upper limit +3.00 mL", "mean difference +1.00 mL"]
    assert difference.y.high > 3


def test_plots_without_data_points_are_omitted() -> None:
    row = dict(two_cases()[0].subject_row, volume_auto_ml=math.nan)
    assert agreement_plots([row], []) == ()
    assert reliability_plot([]) == ()


def test_evaluation_page_escapes_text_from_data(read_page: Read) -> None:
    case = make_case(f"sub-{HOSTILE}", (FOUND_PAIR, MISSED_ONE), (FOUND_PAIR,), site=HOSTILE)
    for row in case.lesion_rows:
        row["region"] = row["partners"] = HOSTILE  # type: ignore[index]
    content = make_evaluation(case)
    hostile = type(content)(
        HOSTILE, content.cases, content.tables, {"subjects": {"dice": HOSTILE}}, (HOSTILE,)
    )
    page = read_page(render_page(hostile))
    assert page.tags["script"] == 1
    assert page.tags["img"] == 0
    assert HOSTILE in page.text


def test_page_states_that_neither_mask_has_lesions() -> None:
    html = render_page(make_evaluation(make_case("sub-01"), make_case("sub-02")))
    assert html.count("Neither mask contains a lesion.") == 4
    assert html.count("no missed lesions") == 2
    assert "<image" not in html


def test_visit_without_predicted_lesions_has_only_missed_lesions(read_page: Read) -> None:
    page = read_page(render_page(make_evaluation(make_case(manual=[FOUND_PAIR, MISSED_ONE]))))
    assert "2 missed lesions" in page.text
    assert "no false-positive lesions" in page.text


def test_evaluation_page_without_visits_has_message() -> None:
    assert "No visit has both masks." in render_page(make_evaluation(reliability=[]))


def test_embedded_pictures_are_greyscale_and_small() -> None:
    html = render_page(make_evaluation(*two_cases()))
    pictures = re.findall(r'<image href="data:image/png;base64,([^"]*)"', html)
    assert len(pictures) == len(html.split("<image")) - 1
    for picture in pictures:
        with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
            assert image.mode == "L"
            assert max(image.size) <= 60


def test_page_of_large_cohort_has_fewer_pictures_and_notes_it(read_page: Read) -> None:
    case = make_case(manual=[FOUND_PAIR, MISSED_ONE, *_specks(41)], auto=[FOUND_PAIR])
    many = make_evaluation(
        case, subjects=[case.subject_row] * 81, lesions=list(case.lesion_rows) * 100
    )
    page = read_page(render_page(many))
    assert "Large cohort: fewer pictures per visit." in page.text
    assert "the 24 largest of each" in page.text
    assert "up to 1 axial, up to 1 coronal, up to 1 sagittal" in page.text
    # three slices, and one plane of each close-up
    assert page.tags["image"] == 3 + 24


def _specks(count: int) -> list[tuple[int, int, int, int, int, int]]:
    return [(8 + 3 * (i % 7), 9 + 3 * (i % 7), 8 + 3 * (i // 7), 9 + 3 * (i // 7), 4, 6)
            for i in range(count)]  # fmt: skip


@pytest.mark.parametrize(
    ("cases", "axial", "planes"), [(1, 6, 3), (30, 6, 3), (31, 3, 3), (81, 1, 3)]
)
def test_plan_reduces_pictures_for_many_visits_or_lesions(
    cases: int, axial: int, planes: int
) -> None:
    plan = plan_for(cases, 1200)
    assert (plan.slices["axial"], plan.close_up_planes) == (axial, planes)
    assert plan_for(cases, 1201).close_up_planes == 1
    assert plan_for(cases, 4001).close_ups == max(3, 2000 // cases)


def test_visit_table_has_every_column_and_its_definition() -> None:
    html = render_page(make_evaluation(*two_cases()))
    visits = html.split('aria-label="Metrics of every visit"')[1].split("</table>")[0]
    assert visits.count('<th scope="col"') == len(TABLES["subjects"])
    for name in TABLES["subjects"]:
        assert f'title="What {name} means"' in visits


def test_sheet_formats_values_of_subject_rows() -> None:
    case = make_case(dice=0.123, hd95_mm=4.56, volume_difference_ml=-12.34, n_false=7)
    names = ("name", "dice", "hd95_mm", "volume_difference_ml", "n_false", "assd_mm")
    table = sheet([case.subject_row], names, {})
    assert table.entries[0].cells == ("sub-01", "0.12", "4.6", "-12.3", "7", "n/a")
    assert [one.numeric for one in table.headings] == [False, *[True] * 5]


def test_anchors_contain_only_safe_characters() -> None:
    assert (anchor_of("sub-01_ses-2"), anchor_of('a "<b>')) == ("sub-01_ses-2", "a-b-")
    assert lesion_anchor("sub-01", "auto", 3) == "sub-01-auto-3"


def test_headings_and_values_depend_on_column() -> None:
    assert (heading("hd95_mm").label, heading("hd95_mm").unit) == ("HD95", "mm")
    assert heading("anima_paper_f1").label == "Anima paper F1"
    assert format_value("volume_difference_ml", 1.25) == "+1.25"
    assert format_value("x", -3.14) == "-3.1"


def test_pivot_shows_intervals_and_n_a_for_missing_values() -> None:
    rows = [
        {"site": "A", "metric": "dice", "mean": 0.5, "low": 0.4, "high": 0.6},
        {"site": "B", "metric": "dice", "mean": 0.3, "low": math.nan, "high": math.nan},
        {"site": "B", "metric": "hd95_mm", "mean": 3.0, "low": math.nan, "high": math.nan},
    ]
    table = pivot(rows, "site", "metric", "mean", {"dice": "overlap"})
    assert [one.label for one in table.headings] == ["metric", "A", "B", "definition"]
    assert [entry.cells for entry in table.entries] == [
        ("Dice", "0.50 (0.40 to 0.60)", "0.30", "overlap"),
        ("HD95 (mm)", "n/a", "3.0", ""),
    ]


@pytest.mark.parametrize("name", TABLES["subjects"])
def test_heading_has_no_underscore_and_nan_is_n_a(name: str) -> None:
    assert "_" not in heading(name).label
    assert format_value(name, math.nan) == "n/a"


def test_unwritable_evaluation_folder_raises_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotCreateError, match="cannot write"):
        write_page(make_evaluation(), tmp_path / "file" / "below")
