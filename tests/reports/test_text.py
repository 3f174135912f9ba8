from __future__ import annotations

import math

from bids_msseg.reports import text


def test_numbers_are_rounded_and_missing_values_are_n_a() -> None:
    loads = (41.26, 3.456, 0.0123, 0, None)
    assert [text.millilitres(load) for load in loads] == ["41.3", "3.46", "0.012", "0.00", "n/a"]
    assert text.decimal(2 / 3, 2) == "0.67"
    assert text.decimal(None, 2) == text.decimal(math.nan, 1) == "n/a"
    assert text.voxel_size((0.5729, 0.5729, 3.3)) == "0.57x0.57x3.30"
    assert text.voxel_size(None) == "n/a"


def test_names_beyond_the_fifth_are_counted() -> None:
    assert text.listed(["a", "b"]) == "a, b"
    assert text.listed(list("abcdefg")) == "a, b, c, d, e and 2 more"


def test_counts_have_singular_and_plural() -> None:
    counts = [text.counted(number, "lesion") for number in (1, 2, 0)]
    assert counts == ["1 lesion", "2 lesions", "no lesions"]


def test_duration_has_minutes_from_one_minute_on() -> None:
    assert [text.duration(time) for time in (0.42, 42.3, 125)] == ["0.4 s", "42 s", "2 min 5 s"]


def test_readable_replaces_underscores_and_hyphens() -> None:
    assert text.readable("deep_white_matter") == "deep white matter"
    assert text.readable("min-lesion-volume") == "min lesion volume"


def test_folders_are_removed_but_addresses_are_kept() -> None:
    shown = text.without_folders("cannot read /data/in/sub-01.nii.gz, see https://a.org/b/c")
    assert shown == "cannot read …/sub-01.nii.gz, see https://a.org/b/c"
