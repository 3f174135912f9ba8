"""The order of visits: its source, and cases in which it is not known."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_msseg.bids.order import VisitOrder, order_labels, order_sessions, read_time

DATES = ("1867-02-03T10:00:00", "1867-08-03T09:59:59.123456Z", "1868-02-03")
SESSIONS = "acq_time in sub-01_sessions.tsv"
SCANS = "acq_time in *_scans.tsv"
LABELS = "the session labels"


def tables(
    bids: Path,
    sessions: Mapping[str, str] | None = None,
    scans: Mapping[str, Sequence[tuple[str, str]]] | None = None,
) -> Path:
    """Write acquisition times to a sessions table and to scans tables."""
    top = bids / "sub-01"
    top.mkdir(parents=True, exist_ok=True)
    if sessions is not None:
        rows = [f"ses-{session}\t{time}" for session, time in sessions.items()]
        text = "\n".join(["session_id\tacq_time", *rows, ""])
        (top / "sub-01_sessions.tsv").write_text(text)
    for session, files in (scans or {}).items():
        path = top / f"ses-{session}" / f"sub-01_ses-{session}_scans.tsv"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(["filename\tacq_time", *("\t".join(f) for f in files), ""]))
    return bids


def flair(session: str) -> str:
    return f"sub-01_ses-{session}_FLAIR.nii.gz"


def order(bids: Path | None, *sessions: str, asked: Sequence[str] = ()) -> VisitOrder:
    return order_sessions(bids, "01", {one: flair(one) for one in sessions}, user_order=asked)


@pytest.mark.parametrize(
    "labels",
    [
        ["1", "2", "10"],
        ["01", "9", "10"],
        ["0", "6", "12", "100"],
        ["M0", "M6", "M12"],
        ["m6", "M12", "M018"],
        ["V1", "V2", "V10"],
        ["month3", "month24"],
        ["mr2w1", "mr2w4"],
        ["6m", "12m"],
        ["6months", "12months"],
        ["2wk", "10wk"],
        ["20190501", "20190502", "20200101"],
        ["201905011230", "202001010000"],
        ["d18670501", "d18671101"],
        ["2018", "2020"],
        ["T1", "T2"],
        ["T0", "T3", "T7"],
        ["T3", "T7", "T12"],
        ["T6w", "T12w"],
        ["visite1", "visite2"],
        ["site1ses1", "site1ses2"],
    ],
)
def test_numbered_labels_are_sorted(labels: list[str]) -> None:
    assert order_labels(labels[::-1]) == tuple(labels)
    assert order(None, *labels[::-1]) == VisitOrder(tuple(labels), LABELS)


@pytest.mark.parametrize(
    "labels",
    [
        ["predrug", "postdrug"],
        ["baseline", "12months"],
        ["baseline", "followup"],
        ["pre1", "post2"],
        ["A", "B"],
        ["1a", "1b"],
        ["1", "M6"],
        ["3T", "7T"],
        ["01", "1"],
        ["M6", "M06"],
        ["6m", "1y"],
        # day first, and six digits with two possible readings
        ["01052019", "12012020"],
        ["190501", "200110"],
        ["20191301", "20200101"],
        ["1", "20190501"],
        # numbers of scanners, places and persons
        ["site1", "site2"],
        ["ses1site1", "ses1site2"],
        ["centre1", "centre2"],
        ["scannerA1", "scannerA2"],
        ["station1", "station2"],
        ["coil32", "coil64"],
        ["rater1", "rater2"],
        ["reader1", "reader2"],
        # numbers of treatments and experiments
        *([f"{word}1", f"{word}2"] for word in ("arm", "condition", "dose", "group", "task")),
        # field strengths and contrasts
        ["tesla3", "tesla7"],
        ["T3", "T7"],
        ["T15", "T3"],
        ["T1w", "T2w"],
    ],
)
def test_ambiguous_labels_give_no_order(labels: list[str]) -> None:
    assert order_labels(labels) == ()
    assert not order(None, *labels).known


@pytest.mark.parametrize(
    ("present", "known"),
    [
        (["T0", "T3", "T7"], True),
        (["T3", "T7"], False),
        (["T3", "T7", "baseline"], False),
        (["T0", "T3", "T7", "baseline"], True),
        # not the name of a session
        (["T0", "T3", "T7", "T7_old"], True),
    ],
)
def test_labels_of_other_sessions_show_whether_t_is_time(
    tmp_path: Path, present: list[str], known: bool
) -> None:
    for session in present:
        (tmp_path / "sub-01" / f"ses-{session}").mkdir(parents=True)
    found = order(tmp_path, "T7", "T3")
    assert (found.sessions, found.source) == (("T3", "T7"), LABELS if known else "")


@given(st.lists(st.integers(0, 99_999), min_size=2, unique=True), st.sampled_from(["", "M", "v"]))
def test_labels_with_same_prefix_are_sorted_by_number(numbers: list[int], prefix: str) -> None:
    found = order_labels([f"{prefix}{number}" for number in numbers])
    assert found == tuple(f"{prefix}{number}" for number in sorted(numbers))


@pytest.mark.parametrize(
    "labels", [("predrug", "postdrug"), ("baseline", "12months"), ("z", "y", "x"), ("2", "1")]
)
@pytest.mark.parametrize("where", ["sessions", "scans"])
def test_dates_override_order_of_labels(
    tmp_path: Path, labels: tuple[str, ...], where: str
) -> None:
    dates = dict(zip(labels, DATES, strict=False))
    if where == "sessions":
        tables(tmp_path, dates)
    else:
        files = {one: [(f"anat/{flair(one)}", date)] for one, date in dates.items()}
        tables(tmp_path, scans=files)
    found = order(tmp_path, *sorted(labels))
    assert (found.sessions, found.source) == (
        labels,
        {"sessions": SESSIONS, "scans": SCANS}[where],
    )


def test_sessions_table_has_priority_over_scans_tables(tmp_path: Path) -> None:
    scans = {"a": [("anat/x.nii.gz", DATES[1])], "b": [("anat/x.nii.gz", DATES[0])]}
    tables(tmp_path, {"a": DATES[0], "b": DATES[1]}, scans)
    assert order(tmp_path, "a", "b") == VisitOrder(("a", "b"), SESSIONS)


def test_time_of_flair_has_priority_over_other_scans(tmp_path: Path) -> None:
    """If the FLAIR has no time, the earliest scan is used."""
    scans = {
        "a": [("anat/sub-01_ses-a_T1w.nii.gz", DATES[0]), (f"anat/{flair('a')}", DATES[2])],
        "b": [("func/b.nii.gz", DATES[2]), ("anat/t1.nii.gz", DATES[1]), (flair("b"), "n/a")],
    }
    assert order(tables(tmp_path, scans=scans), "a", "b") == VisitOrder(("b", "a"), SCANS)


def write_times(bids: Path, table: str, times: Mapping[str, str]) -> str:
    """Write times to one kind of table, and return its name in messages."""
    if table == "sessions":
        tables(bids, times)
        return "sub-01_sessions.tsv"
    tables(bids, scans={one: [(f"anat/{flair(one)}", time)] for one, time in times.items()})
    return "*_scans.tsv"


def one_date(table: str) -> str:
    """Note of a table whose times all have the same date."""
    return (
        f"all acq_time in {table} have one date, which may be a placeholder: times of day do not "
        "order the visits"
    )


@pytest.mark.parametrize("table", ["sessions", "scans"])
@pytest.mark.parametrize(
    "times",
    [
        ("1800-01-01T15:30:00", "1800-01-01T09:30:00"),
        ("1900-01-01 10:00:00", "1900-01-01"),
        # the first one is on the next day in UTC
        ("1801-01-01T23:30:00-05:00", "1801-01-01T09:30:00-05:00"),
        ("2000-01-01T12:00:00Z", "2000-01-01T08:00:00Z", "2000-01-01T10:00:00Z"),
    ],
)
def test_times_of_one_date_give_no_order(
    tmp_path: Path, times: tuple[str, ...], table: str
) -> None:
    """Labels may give the order instead."""
    labels = ("M6", "M12", "M18")[: len(times)]
    name = write_times(tmp_path / "numbers", table, dict(zip(labels, times, strict=True)))
    found = order(tmp_path / "numbers", *labels)
    assert found == VisitOrder(labels, LABELS, (one_date(name),))
    labels = ("z", "y", "x")[: len(times)]
    write_times(tmp_path / "letters", table, dict(zip(labels, times, strict=True)))
    assert order(tmp_path / "letters", *labels) == VisitOrder(
        labels[::-1], notes=(one_date(name), "the session labels do not show an order")
    )


@pytest.mark.parametrize("table", ["sessions", "scans"])
@pytest.mark.parametrize(
    "times",
    [
        ("1867-01-01T09:00:00", "1867-01-01T15:00:00", "1868-01-01T08:00:00"),
        ("1867-01-01", "1868-01-01T08:00:00", "1868-01-01T09:00:00"),
        ("1867-01-01T20:00:00", "1867-01-02T08:00:00", "1867-01-02T09:00:00"),
    ],
)
def test_times_of_two_dates_give_an_order(
    tmp_path: Path, times: tuple[str, ...], table: str
) -> None:
    labels = ("test", "retest", "late")
    name = write_times(tmp_path, table, dict(zip(labels, times, strict=True)))
    assert order(tmp_path, *sorted(labels)) == VisitOrder(labels, f"acq_time in {name}")


@pytest.mark.parametrize("labels", [("predrug", "postdrug"), ("baseline", "12months"), ("b", "a")])
def test_scans_tables_replace_sessions_table_of_one_date(
    tmp_path: Path, labels: tuple[str, ...]
) -> None:
    placeholders = ("1800-01-01T15:00:00", "1800-01-01T09:00:00")
    scans = {one: [(flair(one), date)] for one, date in zip(labels, DATES, strict=False)}
    tables(tmp_path, dict(zip(labels, placeholders, strict=True)), scans)
    assert order(tmp_path, *sorted(labels)) == VisitOrder(
        labels, SCANS, (one_date("sub-01_sessions.tsv"),)
    )


@pytest.mark.parametrize("cell", ["03/02/2019", "2019-13-01", "unknown"])
def test_invalid_time_of_flair_is_noted_if_another_scan_has_a_time(
    tmp_path: Path, cell: str
) -> None:
    scans = {
        "a": [(f"anat/{flair('a')}", cell), ("anat/t1.nii.gz", DATES[1])],
        "b": [(f"anat/{flair('b')}", DATES[0]), ("anat/t1.nii.gz", cell)],
    }
    note = "invalid acq_time of the FLAIR in *_scans.tsv, replaced by that of another scan: ses-a"
    assert order(tables(tmp_path, scans=scans), "a", "b") == VisitOrder(("b", "a"), SCANS, (note,))


@pytest.mark.parametrize("missing", ["n/a", "", " n/a "])
def test_row_without_time_does_not_hide_another_row_of_the_session(
    tmp_path: Path, missing: str
) -> None:
    rows = (("b", missing), ("b", DATES[0]), ("a", DATES[1]), ("a", missing))
    lines = ["session_id\tacq_time", *(f"ses-{session}\t{time}" for session, time in rows), ""]
    (tables(tmp_path) / "sub-01/sub-01_sessions.tsv").write_text("\n".join(lines))
    assert order(tmp_path, "a", "b") == VisitOrder(("b", "a"), SESSIONS)


@pytest.mark.parametrize(
    ("cells", "note"),
    [
        ({"M6": DATES[0], "M12": "n/a"}, "no acq_time in sub-01_sessions.tsv: ses-M12"),
        ({"M6": DATES[0]}, "no acq_time in sub-01_sessions.tsv: ses-M12"),
        ({"M6": "03/02/2019", "M12": DATES[0]}, "invalid acq_time in sub-01_sessions.tsv: ses-M6"),
        (
            {"M6": DATES[0], "M12": DATES[0]},
            "the same acq_time in sub-01_sessions.tsv: ses-M6, ses-M12",
        ),
    ],
)
def test_incomplete_dates_are_noted_and_not_used(
    tmp_path: Path, cells: dict[str, str], note: str
) -> None:
    """Labels may give the order instead; the description contains no date."""
    tables(tmp_path, cells)
    found = order(tmp_path, "M12", "M6")
    assert found == VisitOrder(("M6", "M12"), LABELS, (note,))
    assert found.level == logging.WARNING
    assert not any(cell in found.description for cell in cells.values() if cell != "n/a")
    tables(tmp_path, {{"M6": "pre", "M12": "post"}[name]: cell for name, cell in cells.items()})
    assert not order(tmp_path, "pre", "post").known


def test_scans_tables_replace_incomplete_sessions_table(tmp_path: Path) -> None:
    scans = {one: [(flair(one), date)] for one, date in zip("ba", DATES, strict=False)}
    tables(tmp_path, {"a": DATES[0]}, scans)
    found = order(tmp_path, "a", "b")
    assert (found.sessions, found.source) == (("b", "a"), SCANS)
    assert found.notes == ("no acq_time in sub-01_sessions.tsv: ses-b",)


def test_dates_that_contradict_labels_are_noted(tmp_path: Path) -> None:
    tables(tmp_path, {"1": DATES[1], "2": DATES[0]})
    found = order(tmp_path, "1", "2")
    assert (found.sessions, found.source) == (("2", "1"), SESSIONS)
    assert found.notes == ("the session labels suggest another order",)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"session_id\n" + b"x" * 200_000, None])
def test_unreadable_sessions_table_is_noted(tmp_path: Path, content: bytes | None) -> None:
    path = tables(tmp_path) / "sub-01/sub-01_sessions.tsv"
    if content is None:
        path.symlink_to("gone")
    else:
        path.write_bytes(content)
    said = "is not fetched" if content is None else "cannot be read"
    assert order(tmp_path, "1", "2") == VisitOrder(
        ("1", "2"), LABELS, (f"sub-01_sessions.tsv {said}",)
    )


@pytest.mark.parametrize("text", ["session_id\tage\nses-1\t30\n", "acq_time\n2019-01-01\n", ""])
def test_sessions_table_without_times_gives_no_note(tmp_path: Path, text: str) -> None:
    (tables(tmp_path) / "sub-01/sub-01_sessions.tsv").write_text(text)
    assert order(tmp_path, "1", "2") == VisitOrder(("1", "2"), LABELS)


@pytest.mark.parametrize("asked", [("b", "a"), ("c", "b", "x", "a"), ("b", "y", "a")])
def test_user_order_overrides_dates(tmp_path: Path, asked: tuple[str, ...]) -> None:
    tables(tmp_path, {"a": DATES[0], "b": DATES[1]})
    assert order(tmp_path, "a", "b", asked=asked) == VisitOrder(("b", "a"), "--session-order")


def test_incomplete_user_order_is_noted_and_not_used(tmp_path: Path) -> None:
    found = order(tmp_path, "1", "2", "3", asked=["3", "1"])
    assert not found.known
    assert found.notes == ("ses-2 not in --session-order",)


def test_description_of_known_order_has_sessions_and_source() -> None:
    description = VisitOrder(("M6", "M12"), LABELS).describe("01")
    assert description == "sub-01: order of the visits: ses-M6, ses-M12 (the session labels)"


def test_description_of_unknown_order_has_reason_and_hint(tmp_path: Path) -> None:
    found = order(tmp_path, "pre", "post")
    assert found.sessions == ("post", "pre")
    assert found.level == logging.WARNING
    description = found.describe("01")
    for part in ("ses-post, ses-pre", "not known", "no acq_time", "\n  hint: ", "--session-order"):
        assert part in description


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2019-05-01T10:11:12", "2019-05-01T10:11:12"),
        ("1800-05-01T10:11:12.5Z", "1800-05-01T10:11:12.500000"),
        (" 2019-05-01 ", "2019-05-01T00:00:00"),
        ("2019-05-01T10:11:12+02:00", "2019-05-01T08:11:12"),
        ("0001-01-01T00:00:00+12:00", ""),
        ("01.05.2019", ""),
        ("5/1/2019", ""),
        ("182", ""),
        ("", ""),
    ],
)
def test_read_time_of_valid_and_invalid_texts(text: str, time: str) -> None:
    found = read_time(text)
    assert (found.isoformat() if found else "") == time
