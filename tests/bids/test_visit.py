from __future__ import annotations

from pathlib import Path

from bids_msseg.bids.changes import pairs_of
from bids_msseg.bids.images import listing
from bids_msseg.bids.record import VisitRecord, recorded_visit
from bids_msseg.bids.visit import (
    Visit,
    bare_label,
    identity_cells,
    name_entities,
    visit_key,
    visit_order,
)


def test_names_of_visit() -> None:
    visit = Visit("01", "1", Path("f.nii.gz"), entities={"run": "02", "acq": "3D"})
    assert (visit.key, visit.prefix) == ("sub-01_ses-1", "sub-01_ses-1_acq-3D_run-02")
    assert list(visit.contrasts) == ["FLAIR"]
    assert recorded_visit(VisitRecord("01", "1", visit.prefix, "ok")).prefix == visit.prefix
    assert (visit_key("01", None), visit_key("01", "pre")) == ("sub-01", "sub-01_ses-pre")
    assert identity_cells("01", None) == {"participant_id": "sub-01", "session_id": None}
    assert identity_cells("01", "pre")["session_id"] == "ses-pre"


def test_visits_are_sorted_naturally_without_session_first() -> None:
    visits = [("10", None), ("2", "b"), ("2", None)]
    ordered = sorted(visits, key=lambda visit: visit_order(*visit))
    assert ordered == [("2", None), ("2", "b"), ("10", None)]


def test_labels_and_file_names_are_split() -> None:
    assert bare_label("sub-01", "sub") == bare_label("01", "sub") == "01"
    assert name_entities("sub-01_run-02_T1w.nii.gz") == ({"sub": "01", "run": "02"}, "T1w")


def test_names_beyond_the_eighth_are_counted() -> None:
    assert listing(list("abcdefghij")) == "a, b, c, d, e, f, g, h, and 2 more"


def test_pairs_leave_out_failed_visits() -> None:
    states = {"1": "ok", "2": "failed", "3": "ok"}
    records = [VisitRecord("01", ses, f"sub-01_ses-{ses}", s) for ses, s in states.items()]
    (pair,) = pairs_of(records)
    assert (pair.earlier.session, pair.later.session) == ("1", "3")
