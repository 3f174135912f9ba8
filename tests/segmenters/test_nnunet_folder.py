"""Channels, labels and folds of an nnU-Net model folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bids_msseg.errors import DataError, NoInputError, UsageError
from bids_msseg.segmenters.nnunet_folder import (
    find_channels,
    find_ending,
    find_folds,
    find_head,
    identify,
    read_channels,
    read_descriptions,
    read_folds,
)

CHECKPOINT = "checkpoint_final.pth"


@pytest.mark.parametrize(
    ("names", "asked", "expected"),
    [
        ({"0": "FLAIR"}, (), ("FLAIR",)),
        ({"0": "T1", "1": "T2_FLAIR", "2": "T2w"}, (), ("T1w", "FLAIR", "T2w")),
        ({"1": "t2", "0": "flair"}, (), ("FLAIR", "T2w")),
        ({str(n): "T1" for n in range(10)} | {"10": "FLAIR"}, (), ("T1w",) * 10 + ("FLAIR",)),
        ({"0": "zscore", "1": "PD"}, ("FLAIR", "T1w"), ("FLAIR", "T1w")),
    ],
)  # fmt: skip
def test_contrasts_of_channels_are_found(
    names: dict[str, str], asked: tuple[str, ...], expected: Any
) -> None:
    assert find_channels({"channel_names": names}, asked) == expected
    # key of older nnU-Net versions
    assert find_channels({"modality": names}, asked) == expected


@pytest.mark.parametrize(
    ("names", "asked"), [({"0": "PD"}, ()), ({"0": "FLAIR"}, ("FLAIR", "T1w")), ({}, ()), (5, ())]
)
def test_unknown_channels_are_refused(names: Any, asked: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as caught:
        find_channels({"channel_names": names}, asked)
    assert "channels = " in caught.value.hint


def test_channels_option_is_case_insensitive() -> None:
    assert read_channels(["flair", "T1W"]) == ("FLAIR", "T1w")
    for wrong in ([], ["PD"], 5):
        with pytest.raises(ValueError, match=r"T2w|strings"):
            read_channels(wrong)


@pytest.mark.parametrize(
    ("labels", "asked", "expected"),
    [
        ({"background": 0, "wml": 1}, "", 1),
        ({"background": 0, "brain": 1, "MS lesion": 2}, "", 2),
        ({"background": 0, "a": 2, "b": 5, "ignore": 7}, "b", 2),
        ({"background": 0, "brain": [1, 2], "wml": [2]}, "wml", 1),
    ],
)
def test_lesion_output_channel_is_found(labels: dict[str, Any], asked: str, expected: int) -> None:
    assert find_head({"labels": labels}, asked) == expected


@pytest.mark.parametrize(
    ("labels", "asked"),
    [
        ({"background": 0, "a": 1, "b": 2}, ""),
        ({"background": 0, "lesion": 1}, "wml"),
        ({"background": 0, "new lesion": 1, "old lesion": 2}, ""),
        ({}, ""),
    ],
)
def test_unknown_or_ambiguous_lesion_label_is_refused(labels: dict[str, Any], asked: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_head({"labels": labels}, asked)
    assert "label = " in caught.value.hint


def test_non_numeric_labels_are_refused() -> None:
    with pytest.raises(DataError):
        find_head({"labels": {"background": 0, "lesion": "one"}}, "")


def _folds(model: Path, *names: str) -> Path:
    for name in names:
        (model / f"fold_{name}").mkdir(parents=True)
        (model / f"fold_{name}" / CHECKPOINT).touch()
    return model


@pytest.mark.parametrize(
    ("there", "asked", "expected"),
    [
        (("0", "2", "10"), (), (0, 2, 10)),
        (("all",), (), ("all",)),
        (("0", "all"), (), (0,)),
        (("0", "all"), ("all",), ("all",)),
        (("0", "1"), (1,), (1,)),
    ],
)
def test_folds_are_found(
    tmp_path: Path, there: tuple[str, ...], asked: Any, expected: Any
) -> None:
    assert find_folds(_folds(tmp_path, *there), CHECKPOINT, asked) == expected


@pytest.mark.parametrize(("there", "asked"), [(("0",), (0, 1)), ((), ())])
def test_missing_fold_is_refused(tmp_path: Path, there: tuple[str, ...], asked: Any) -> None:
    with pytest.raises(NoInputError, match=CHECKPOINT):
        find_folds(_folds(tmp_path, *there), CHECKPOINT, asked)


@pytest.mark.parametrize(
    ("value", "expected"), [("all", ("all",)), (["all"], ("all",)), (3, (3,)), ([0, "1"], (0, 1))]
)
def test_folds_option_is_read(value: object, expected: Any) -> None:
    assert read_folds(value) == expected


@pytest.mark.parametrize("value", [[], "some", ["all", 1], -1, True])
def test_invalid_folds_option_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="all"):
        read_folds(value)


def _describe(model: Path, dataset: str, plans: str) -> Path:
    model.mkdir()
    (model / "dataset.json").write_text(dataset)
    (model / "plans.json").write_text(plans)
    return model


def test_model_descriptions_are_read(tmp_path: Path) -> None:
    name = "nnUNetTrainer__nnUNetPlans__3d_fullres"
    model = _describe(tmp_path / name, '{"labels": {}}', '{"dataset_name": "D"}')
    assert read_descriptions(model) == ({"labels": {}}, {"dataset_name": "D"})
    (model / "plans.json").unlink()
    with pytest.raises(NoInputError, match=r"plans\.json"):
        read_descriptions(model)


@pytest.mark.parametrize("dataset", ["{", "[]", "\x00", "5"])
def test_damaged_description_is_refused(tmp_path: Path, dataset: str) -> None:
    with pytest.raises(DataError, match=r"dataset\.json"):
        read_descriptions(_describe(tmp_path / "model", dataset, "{}"))


def test_second_stage_of_nnunet_cascade_is_refused(tmp_path: Path) -> None:
    plans = {"configurations": {"3d_cascade_fullres": {"previous_stage": "3d_lowres"}}}
    folder = tmp_path / "nnUNetTrainer__nnUNetPlans__3d_cascade_fullres"
    with pytest.raises(UsageError):
        read_descriptions(_describe(folder, "{}", json.dumps(plans)))


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_nifti_file_endings_are_accepted(ending: str) -> None:
    assert find_ending({"file_ending": ending}) == ending


@pytest.mark.parametrize("ending", [".mha", ".png", 5])
def test_other_file_endings_are_refused(ending: object) -> None:
    with pytest.raises(UsageError):
        find_ending({"file_ending": ending})


def test_identity_has_name_version_and_licence() -> None:
    read = {"version": "1.0", "licence": "CC-BY", "citation": "Doe 2020"}
    found = identify(read, "Dataset001_X", "/no/bin/program")
    assert (found.segmenter, found.name) == ("nnunet", "Dataset001_X")
    assert found.version == "1.0, nnunetv2"
    assert found.licence == "nnU-Net: Apache-2.0; model: CC-BY"
    assert found.citation.startswith("Doe 2020; Isensee")
    assert identify({"name": "mine"}, "Dataset001_X", "/no/bin/program").name == "mine"
