"""``.bidsignore``: gitignore patterns, and their effect on the selection of visits."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bids_msseg.bids.ignore import IgnoreRules, read_ignore_rules
from bids_msseg.bids.query import find_visits
from bids_msseg.errors import NothingSelectedError

MakeDataset = Callable[..., Path]
MM1 = (1.0, 1.0, 1.0)
FLAIR = "sub-01/anat/sub-01_acq-bad_FLAIR.nii.gz"


@pytest.mark.parametrize(
    "lines",
    [
        [FLAIR],
        [f"/{FLAIR}"],
        ["sub-01_acq-bad_FLAIR.nii.gz"],
        ["*_acq-bad_*"],
        ["**/*bad*.nii.gz"],
        ["sub-01"],
        ["sub-01/"],
        ["/sub-01/"],
        ["sub-0?/anat/"],
        ["sub-0[0-3]/"],
        ["sub-0[!2-9]/"],
        ["sub-01/**"],
        ["**/anat"],
        ["sub-*/**/*_FLAIR.nii.gz"],
        ["anat/"],
        ["# a comment", "", "sub-01/   "],
        ["!sub-01/", "sub-01/"],
        # a file in an excluded folder cannot be included again
        ["sub-01/", f"!{FLAIR}"],
        ["[z-a]", "**"],
    ],
)
def test_matching_patterns_exclude_image(lines: list[str]) -> None:
    assert IgnoreRules(tuple(lines)).ignores(FLAIR)


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["sub-1"],
        ["/anat/"],
        ["ana"],
        ["sub-02/"],
        [f"{FLAIR}/"],
        ["/*_FLAIR.nii.gz"],
        ["sub-01/*_FLAIR.nii.gz"],
        ["sub-0[2-9]/"],
        [r"\*_acq-bad_*"],
        [r"\#sub-01", "#sub-01"],
        ["*_acq-bad_*", "!sub-01/**"],
        ["*.nii"],
    ],
)
def test_other_patterns_do_not_exclude_image(lines: list[str]) -> None:
    assert not IgnoreRules(tuple(lines)).ignores(FLAIR)


@pytest.fixture
def bids(make_dataset: MakeDataset) -> Path:
    return make_dataset(
        {
            "sub-01/anat/sub-01_FLAIR.nii.gz": (1.0, 1.0, 3.0),
            FLAIR: MM1,
            "sub-01/anat/sub-01_T1w.nii.gz": MM1,
            "sub-02/ses-1/anat/sub-02_ses-1_FLAIR.nii.gz": MM1,
            "sub-02/ses-2/anat/sub-02_ses-2_FLAIR.nii.gz": MM1,
        }
    )


@pytest.mark.parametrize(
    ("line", "used"),
    [
        ("", [FLAIR.split("/")[-1], "sub-01_T1w.nii.gz"]),
        ("*_acq-bad_*", ["sub-01_FLAIR.nii.gz", "sub-01_T1w.nii.gz"]),
        ("*_T1w.nii.gz", [FLAIR.split("/")[-1]]),
        ("sub-01/anat/sub-01_[!a]*.nii.gz", [FLAIR.split("/")[-1]]),
    ],
)
def test_excluded_images_are_not_used(bids: Path, line: str, used: list[str]) -> None:
    (bids / ".bidsignore").write_text(f"{line}\n")
    found = find_visits(bids, participants=["01"])
    assert [path.name for path in found.visits[0].contrasts.values()] == used
    assert bool(line) == any(".bidsignore excludes" in note for note in found.notes)


@pytest.mark.parametrize(
    ("line", "visits"),
    [
        ("sub-01/", ["sub-02_ses-1", "sub-02_ses-2"]),
        ("sub-02/ses-1", ["sub-01", "sub-02_ses-2"]),
        ("sub-02", ["sub-01"]),
    ],
)
def test_excluded_folders_are_not_visits(bids: Path, line: str, visits: list[str]) -> None:
    (bids / ".bidsignore").write_text(line)
    found = find_visits(bids)
    assert [visit.key for visit in found.visits] == visits
    assert found.skipped == ()
    (note,) = found.notes
    assert ".bidsignore excludes" in note


def test_visit_with_only_excluded_flair_is_skipped(bids: Path) -> None:
    (bids / ".bidsignore").write_text("sub-01/**/*_FLAIR.nii.gz\n")
    (skipped,) = find_visits(bids).skipped
    assert skipped.key == "sub-01"
    assert ".bidsignore" in skipped.reason


def test_selected_but_excluded_visit_is_reported_as_skipped(bids: Path) -> None:
    (bids / ".bidsignore").write_text("sub-01/\nsub-02/ses-2/\n")
    found = find_visits(bids, participants=["01", "02"], sessions=[])
    assert [(one.key, ".bidsignore" in one.reason) for one in found.skipped] == [("sub-01", True)]
    found = find_visits(bids, participants=["02"], sessions=["1", "2"])
    skipped = [(one.key, ".bidsignore" in one.reason) for one in found.skipped]
    assert skipped == [("sub-02_ses-2", True)]
    with pytest.raises(NothingSelectedError) as caught:
        find_visits(bids, participants=["01"])
    assert ".bidsignore excludes sub-01" in caught.value.hint


@pytest.mark.parametrize("content", [b"\xff\xfe", None])
def test_unreadable_bidsignore_excludes_nothing(bids: Path, content: bytes | None) -> None:
    path = bids / ".bidsignore"
    if content is None:
        os.mkfifo(path)
    else:
        path.write_bytes(content)
    rules, (note,) = read_ignore_rules(bids)
    assert not rules.ignores(FLAIR)
    assert ".bidsignore" in note
