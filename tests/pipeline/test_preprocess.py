"""All preprocessing steps in one process, on a small phantom with mock registrations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bids_msseg.errors import DataError, NoInputError
from bids_msseg.imaging.brain_check import CheckedBrain
from bids_msseg.imaging.registration.result import Registration
from bids_msseg.imaging.volume import StoredVolumes, Volume, as_stored, load_volume, save_volume
from bids_msseg.pipeline import brain as brain_steps
from bids_msseg.pipeline import preprocess as steps
from bids_msseg.pipeline.preprocess import (
    Preprocessed,
    correct_contrasts,
    preprocess,
    read_contrasts,
)

COARSE = (4.0, 4.0, 6.0)
CONTRASTS = ("FLAIR", "T1w", "T2w")


@pytest.fixture
def files(tmp_path: Path, make_phantom: Callable[..., Any]) -> dict[str, Path]:
    """Skull-stripped images, stored in three axis orders."""
    grids = [make_phantom(axes, COARSE) for axes in ("LAS", "RAS", "PSR")]
    return {
        name: grid.write(tmp_path / f"{name}.nii.gz", name, seed=seed)
        for seed, (name, grid) in enumerate(zip(CONTRASTS, grids, strict=True))
    }


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Mock registrations that return the identity; entries are their failure reasons."""
    doubts: dict[str, str] = {}
    order: list[str] = []

    def rigid(*_: object, **__: object) -> Registration:
        order.append(("T1w", "T2w")[len(order) % 2])
        return Registration(np.eye(4), 0.2, 0.3, ("a note",), doubts.get(order[-1], ""))

    def affine(*_: object, **__: object) -> Registration:
        return Registration(np.eye(4), 0.2, 0.3, (), doubts.get("template", ""))

    def check(_: object, mask: np.ndarray, *__: object, **___: object) -> CheckedBrain:
        smaller = mask.copy()
        smaller[:, :, : mask.shape[2] // 3] = False
        return CheckedBrain(smaller, ~mask, ("cut",), ("look",))

    monkeypatch.setattr(steps, "register_rigid", rigid)
    monkeypatch.setattr(steps, "register_affine", affine)
    monkeypatch.setattr(brain_steps, "check_brain", check)
    return doubts


def _run(files: dict[str, Path], **given: Any) -> Preprocessed:
    return preprocess(read_contrasts(files)[0], **given)


def test_stack_contains_all_contrasts(files: dict[str, Path], registered: dict[str, str]) -> None:
    done = _run(files)
    assert not registered
    assert done.stack.present == (True, True, True)
    assert (list(done.images), list(done.transforms)) == (list(CONTRASTS), ["T1w", "T2w"])
    # later steps use the result of the brain check
    assert done.extracerebral is not None
    assert (done.extracerebral.data.dtype, done.extracerebral.data.max()) == (np.uint8, 1)
    assert not done.brain.data[:, :, : done.brain.shape[2] // 3].any()
    assert done.faults == ("look",)
    assert done.notes == ("coregister_T1w: a note", "coregister_T2w: a note", "check_brain: cut")
    again = _run(files)
    np.testing.assert_array_equal(done.stack.data, again.stack.data)


@pytest.mark.parametrize("doubtful", [("T1w",), ("T2w",), ("T1w", "T2w")])
def test_contrast_with_failed_registration_is_left_out(
    files: dict[str, Path], registered: dict[str, str], doubtful: tuple[str, ...]
) -> None:
    registered.update(dict.fromkeys(doubtful, "little information"))
    done = _run(files)
    assert done.stack.present == (True, *(name not in doubtful for name in ("T1w", "T2w")))
    assert set(done.images) == set(CONTRASTS) - set(doubtful)
    assert [name in fault for name, fault in zip(doubtful, done.faults, strict=False)] == [
        True for _ in doubtful
    ]


def test_failed_template_registration_keeps_brain_mask(
    files: dict[str, Path], registered: dict[str, str]
) -> None:
    registered["template"] = "the brains do not overlap"
    done = _run(files)
    assert done.extracerebral is None
    assert len(done.faults) == 1
    assert done.brain.data[:, :, : done.brain.shape[2] // 3].any()


def test_given_brain_mask_is_used(
    files: dict[str, Path], registered: dict[str, str], tmp_path: Path
) -> None:
    registered["template"] = "leave the mask alone"
    flair = load_volume(files["FLAIR"])
    mask = flair.data > 0
    mask[: mask.shape[0] // 2] = False
    save_volume(flair.with_data(mask), tmp_path / "brain.nii.gz")
    done = _run(files, given_brain=tmp_path / "brain.nii.gz")
    assert done.brain.data.sum() == mask.sum()


def test_missing_or_damaged_image_raises_error(files: dict[str, Path]) -> None:
    with pytest.raises(NoInputError):
        read_contrasts({"FLAIR": files["FLAIR"].with_name("nowhere.nii.gz")})
    files["T2w"].write_bytes(files["T2w"].read_bytes()[:-300])
    with pytest.raises(DataError, match="T2w"):
        read_contrasts(files)


def test_correction_of_files_equals_correction_in_memory(
    files: dict[str, Path], tmp_path: Path
) -> None:
    """Nodes process files in the same way as :func:`preprocess` processes images in memory."""
    images, _ = read_contrasts(files)
    brain = as_stored(images["FLAIR"].with_data(images["FLAIR"].data > 0))
    for name, image in images.items():
        save_volume(image, tmp_path / f"conformed_{name}.nii.gz")
    stored = StoredVolumes({name: tmp_path / f"conformed_{name}.nii.gz" for name in images})
    move = {"T1w": np.eye(4), "T2w": np.diag([-1.0, -1.0, 1.0, 1.0])}

    def keep(_: str, image: Volume) -> Volume:
        return as_stored(image)

    one = correct_contrasts(images, brain, move, threads=1, keep=keep)
    other = correct_contrasts(stored, brain, move, threads=2, keep=keep)
    assert list(one) == list(other) == list(CONTRASTS)
    for name in CONTRASTS:
        np.testing.assert_array_equal(one[name].data, other[name].data)
        np.testing.assert_array_equal(one[name].affine, other[name].affine)


@pytest.mark.parametrize(
    ("requested", "used"), [("auto", "cpu"), ("cuda:1", "cuda:1"), ("mps", "cpu")]
)
def test_brain_extraction_uses_gpu_only_if_requested(requested: str, used: str) -> None:
    assert brain_steps.brain_device(requested) == used
