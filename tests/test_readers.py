from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest

from bids_msseg import option_files, readers
from bids_msseg.errors import UsageError


@pytest.mark.parametrize("value", ["4", 4])
def test_integer_accepts_text_and_number(value: object) -> None:
    assert readers.integer(1)(value) == 4


@pytest.mark.parametrize("value", ["x", "1.5", 4.0, True, None, "", 0, -1, 10])
def test_invalid_or_out_of_range_integer_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="a whole number of at least 1, at most 9"):
        readers.integer(1, 9)(value)


@pytest.mark.parametrize("value", ["nan", "inf", float("inf"), "x", False, [], "-1"])
def test_invalid_number_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"^the words$"):
        readers.number("the words", lambda x: x >= 0)(value)


@pytest.mark.parametrize("value", ["true", 1, None])
def test_flag_accepts_only_booleans(value: object) -> None:
    with pytest.raises(ValueError, match="true or false"):
        readers.flag(value)


def test_paths_become_absolute_without_following_links(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert readers.path(str(tmp_path / "link")) == tmp_path / "link"
    assert readers.path("here") == Path.cwd() / "here"


@pytest.mark.parametrize("value", ["", 3, None])
def test_invalid_path_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="a string"):
        readers.path(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("sub-01", ("01",)),
        (["01", "sub-01", "1"], ("01", "1")),
        (["sub-sub", "A+b"], ("sub", "A+b")),
        ([], ()),
    ],
)
def test_labels_are_read_without_prefix(value: object, expected: tuple[str, ...]) -> None:
    assert readers.labels("sub-")(value) == expected


@pytest.mark.parametrize("value", [["sub-"], ["ses-01"], ["a b"], ["../x"], [1], "", [""], 7])
def test_invalid_label_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"^(labels of letters and digits|a list of strings)"):
        readers.labels("sub-")(value)


@pytest.mark.parametrize(
    "content",
    ["sub-01\n07\n\n", "participant_id\tage\nsub-01\t30\nsub-07\t41\n", "01\r\n07\r\n01\r\n"],
    ids=["plain", "participants.tsv", "windows"],
)
def test_labels_are_read_from_file(tmp_path: Path, content: str) -> None:
    listed = tmp_path / "list.tsv"
    listed.write_text(content, encoding="utf-8", newline="")
    assert readers.labels("sub-")([str(listed), "09"]) == ("01", "07", "09")


def test_invalid_label_file_is_refused(tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("sub-01\n/etc/passwd\n", encoding="utf-8")
    with pytest.raises(ValueError, match="labels of letters and digits"):
        readers.labels("sub-")(str(listed))
    listed.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not UTF-8"):
        readers.labels("sub-")(str(listed))


@pytest.mark.parametrize("value", [["="], ["=x"], ["brains="], "brains=", 3])
def test_invalid_named_path_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"NAME=PATH|a list of strings"):
        readers.named_paths(value)


def test_named_path_may_contain_equals_sign() -> None:
    assert readers.named_paths(["a=/x=y"]) == {"a": Path("/x=y")}
    assert readers.named_paths(["/x=y/brains"]) == {"brains": Path("/x=y/brains")}


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (["/data/fmriprep"], ["fmriprep"]),
        ("/data/fmriprep", ["fmriprep"]),
        (["/a/masks", "/b/masks", "/c/masks"], ["masks", "masks-2", "masks-3"]),
        (["masks=/a", "/b/masks"], ["masks", "masks-2"]),
        (["/data/my masks (1)"], ["my-masks-1"]),
        (["/data/raw"], ["raw-2"]),
    ],
)
def test_unnamed_path_is_named_after_its_folder(value: object, names: list[str]) -> None:
    assert list(readers.named_paths(value)) == names


@pytest.mark.parametrize(
    ("value", "name", "folders"),
    [
        (["/a/brains", "brains=/b"], "brains", ("/a/brains", "/b")),
        (["brains=/a", "brains=/b"], "brains", ("/a", "/b")),
        (["x=/a", "/b/masks", "/c/masks", "masks-2=/d"], "masks-2", ("/c/masks", "/d")),
        (["x=/a", "y=/b", "x=/a"], "x", ("/a", "/a")),
    ],
)
def test_duplicate_path_name_is_refused(
    value: list[str], name: str, folders: tuple[str, str]
) -> None:
    with pytest.raises(ValueError, match="once") as caught:
        readers.named_paths(value)
    assert f"{name} is both {folders[0]} and {folders[1]}" in str(caught.value)


def test_filters_of_other_apps_are_kept() -> None:
    given = {"FLAIR": {"run": 1}, "bold": {"task": "rest"}, "comment": "shared"}
    assert option_files.filters(given) == {
        "flair": {"run": 1},
        "bold": {"task": "rest"},
        "comment": "shared",
    }


@pytest.mark.parametrize(
    "value",
    [
        [],
        "flair",
        {"flair": "3d"},
        {"T1w": None},
        {"T1w": {}, "t1w": {}},
        {"flair": {"run": datetime.datetime.now(tz=datetime.UTC)}},
    ],
)
def test_invalid_filters_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match="a table of entities for each contrast"):
        option_files.filters(value)


def test_unreadable_file_error_gives_reason(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"the list .*/none cannot be read: No such file"
    ) as error:
        option_files.read_file(tmp_path / "none", what="the list")
    assert error.value.hint == "check the path and its permissions"
    with pytest.raises(UsageError, match="Is a directory"):
        option_files.read_file(tmp_path, what="the list")


def test_invalid_json_error_names_line(tmp_path: Path) -> None:
    (tmp_path / "f.json").write_text('{\n"flair": }', encoding="utf-8")
    with pytest.raises(UsageError, match=r"is not valid JSON: .* in line 2"):
        option_files.read_json(tmp_path / "f.json", what="the filter file")


@pytest.mark.parametrize(
    ("reader", "value", "expected"),
    [
        (readers.flag, True, True),
        (readers.number("a number above 0", lambda x: x > 0), "2.5", 2.5),
        (readers.text, "auto", "auto"),
        (readers.choice("yes", "no"), "yes", "yes"),
        (readers.items, "FLAIR", ["FLAIR"]),
        (readers.memory, "500M", 0.5),
        (readers.memory, 2000, 2.0),
    ],
)
def test_reader_converts_value(reader: Any, value: object, expected: object) -> None:
    assert reader(value) == expected


def test_alternatives_are_joined_with_or() -> None:
    assert readers.alternatives(["auto", "yes", "no"]) == "auto, yes or no"


def test_nearest_word_is_suggested_for_misspelling() -> None:
    words = ["threshold", "model"]
    assert readers.nearest("treshold", words) == "; did you mean threshold?"
    assert readers.nearest("xyz", words) == ""


def test_pattern_root_is_folder_before_placeholder() -> None:
    pattern = Path("/data/masks/sub-{subject}/{session}.nii.gz")
    assert option_files.pattern_root(pattern) == Path("/data/masks")
