"""The order of visits: which source gives it, and when it is not known."""

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
    """Write times by session, and by session and file."""
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
    ],
)
def test_labels_that_are_evidently_in_order(labels: list[str]) -> None:
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
        # the day first, and two readings of six digits
        ["01052019", "12012020"],
        ["190501", "200110"],
        ["20191301", "20200101"],
        ["1", "20190501"],
    ],
)
def test_labels_that_show_no_order(labels: list[str]) -> None:
    assert order_labels(labels) == ()
    assert not order(None, *labels).known


@given(st.lists(st.integers(0, 99_999), min_size=2, unique=True), st.sampled_from(["", "M", "v"]))
def test_numbers_behind_one_prefix_are_sorted_as_numbers(numbers: list[int], prefix: str) -> None:
    found = order_labels([f"{prefix}{number}" for number in numbers])
    assert found == tuple(f"{prefix}{number}" for number in sorted(numbers))


@pytest.mark.parametrize(
    "labels", [("predrug", "postdrug"), ("baseline", "12months"), ("z", "y", "x"), ("2", "1")]
)
@pytest.mark.parametrize("where", ["sessions", "scans"])
def test_dates_order_visits_whatever_their_labels(
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


def test_the_table_of_sessions_comes_before_those_of_scans(tmp_path: Path) -> None:
    scans = {"a": [("anat/x.nii.gz", DATES[1])], "b": [("anat/x.nii.gz", DATES[0])]}
    tables(tmp_path, {"a": DATES[0], "b": DATES[1]}, scans)
    assert order(tmp_path, "a", "b") == VisitOrder(("a", "b"), SESSIONS)


def test_the_flairs_row_comes_before_those_of_other_scans(tmp_path: Path) -> None:
    """Where it has none, the first scan that has one counts."""
    scans = {
        "a": [("anat/sub-01_ses-a_T1w.nii.gz", DATES[0]), (f"anat/{flair('a')}", DATES[2])],
        "b": [("func/b.nii.gz", DATES[2]), ("anat/t1.nii.gz", DATES[1]), (flair("b"), "n/a")],
    }
    assert order(tables(tmp_path, scans=scans), "a", "b") == VisitOrder(("b", "a"), SCANS)


@pytest.mark.parametrize(
    ("cells", "note"),
    [
        ({"M6": DATES[0], "M12": "n/a"}, "no acq_time in sub-01_sessions.tsv: ses-M12"),
        ({"M6": DATES[0]}, "no acq_time in sub-01_sessions.tsv: ses-M12"),
        (
            {"M6": "03/02/2019", "M12": DATES[0]},
            "invalid acq_time in sub-01_sessions.tsv: ses-M6",
        ),
        (
            {"M6": DATES[0], "M12": DATES[0]},
            "the same acq_time in sub-01_sessions.tsv: ses-M6, ses-M12",
        ),
    ],
)
def test_dates_of_some_visits_are_no_order_and_are_reported(
    tmp_path: Path, cells: dict[str, str], note: str
) -> None:
    """Labels may give it; the dates themselves are repeated nowhere."""
    tables(tmp_path, cells)
    found = order(tmp_path, "M12", "M6")
    assert found == VisitOrder(("M6", "M12"), LABELS, (note,))
    assert found.level == logging.WARNING
    assert not any(cell in found.description for cell in cells.values() if cell != "n/a")
    tables(tmp_path, {{"M6": "pre", "M12": "post"}[name]: cell for name, cell in cells.items()})
    assert not order(tmp_path, "pre", "post").known


def test_scans_complete_what_sessions_leave_out(tmp_path: Path) -> None:
    scans = {one: [(flair(one), date)] for one, date in zip("ba", DATES, strict=False)}
    tables(tmp_path, {"a": DATES[0]}, scans)
    found = order(tmp_path, "a", "b")
    assert (found.sessions, found.source) == (("b", "a"), SCANS)
    assert found.notes == ("no acq_time in sub-01_sessions.tsv: ses-b",)


def test_a_contradiction_with_the_labels_is_reported(tmp_path: Path) -> None:
    tables(tmp_path, {"1": DATES[1], "2": DATES[0]})
    found = order(tmp_path, "1", "2")
    assert (found.sessions, found.source) == (("2", "1"), SESSIONS)
    assert found.notes == ("the session labels suggest another order",)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"session_id\n" + b"x" * 200_000, None])
def test_a_table_that_cannot_be_read_is_reported(tmp_path: Path, content: bytes | None) -> None:
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
def test_tables_without_times_are_no_fault(tmp_path: Path, text: str) -> None:
    (tables(tmp_path) / "sub-01/sub-01_sessions.tsv").write_text(text)
    assert order(tmp_path, "1", "2") == VisitOrder(("1", "2"), LABELS)


@pytest.mark.parametrize("asked", [("b", "a"), ("c", "b", "x", "a"), ("b", "y", "a")])
def test_what_the_user_says_overrides(tmp_path: Path, asked: tuple[str, ...]) -> None:
    tables(tmp_path, {"a": DATES[0], "b": DATES[1]})
    assert order(tmp_path, "a", "b", asked=asked) == VisitOrder(("b", "a"), "--session-order")


def test_the_user_has_to_name_every_session(tmp_path: Path) -> None:
    found = order(tmp_path, "1", "2", "3", asked=["3", "1"])
    assert not found.known
    assert found.notes == ("ses-2 not in --session-order",)


def test_what_is_said_of_an_order_that_is_not_known(tmp_path: Path) -> None:
    found = order(tmp_path, "pre", "post")
    assert found.sessions == ("post", "pre")
    assert found.level == logging.WARNING
    told = found.describe("01")
    for part in ("ses-post, ses-pre", "not known", "no acq_time", "\n  hint: ", "--session-order"):
        assert part in told


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
def test_times(text: str, time: str) -> None:
    found = read_time(text)
    assert (found.isoformat() if found else "") == time
