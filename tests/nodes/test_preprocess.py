"""Preprocessing nodes and the node of the cascade, on small images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nipype.interfaces.base import isdefined
from nipype.pipeline.engine.nodes import NodeExecutionError

from bids_msseg.imaging.brain_check import CheckedBrain
from bids_msseg.imaging.normalise import Stack
from bids_msseg.imaging.registration.itk import read_itk_affine, write_itk_affine
from bids_msseg.imaging.registration.result import Registration
from bids_msseg.models.anatomy import Anatomy
from bids_msseg.nodes.base import FAILURE_FILE
from bids_msseg.nodes.preprocess import (
    BuildStack,
    CheckBrain,
    Conform,
    Coregister,
    CorrectBias,
    FindBrain,
    FitTemplate,
)
from bids_msseg.nodes.segment import Segment
from bids_msseg.pipeline import brain as brain_steps
from bids_msseg.pipeline import preprocess

Run = Callable[..., Any]
COARSE = (4.0, 4.0, 6.0)


def read(path: str) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


@pytest.fixture
def flair(tmp_path: Path, make_phantom: Callable[..., Any]) -> Path:
    path: Path = make_phantom("RAS", COARSE).write(tmp_path / "flair.nii.gz", "FLAIR")
    return path


@pytest.fixture
def brain(tmp_path: Path, make_phantom: Callable[..., Any]) -> Path:
    phantom = make_phantom("RAS", COARSE)
    path = tmp_path / "brain.nii.gz"
    mask = (phantom.image("FLAIR") > 0).astype(np.uint8)
    nib.save(nib.Nifti1Image(mask, phantom.affine), path)
    return path


def test_conform_reorients_to_ras(
    run: Run, tmp_path: Path, make_phantom: Callable[..., Any]
) -> None:
    raw = make_phantom("PIL", COARSE).write(tmp_path / "raw.nii.gz", "FLAIR", kind="int16")
    image = nib.load(run(Conform, in_file=raw, contrast="FLAIR").out_file)
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    assert image.get_data_dtype() == np.float32


def test_conform_reports_damaged_file(run: Run, tmp_path: Path, flair: Path) -> None:
    flair.write_bytes(flair.read_bytes()[:-200])
    with pytest.raises(NodeExecutionError):
        run(Conform, in_file=flair, contrast="FLAIR")
    failure = json.loads(next(tmp_path.rglob(FAILURE_FILE)).read_text())
    assert failure["code"] == 65
    assert "flair.nii.gz is damaged" in failure["message"]


@pytest.mark.parametrize("answer", ["auto", "yes"])
def test_brain_mask_of_skull_stripped_image_is_its_support(
    run: Run, flair: Path, brain: Path, answer: str
) -> None:
    found = run(FindBrain, in_file=flair, skull_stripped=answer)
    assert found.how == "stripped"
    assert (read(found.mask_file) == read(str(brain))).all()


@pytest.mark.parametrize("trailing", [False, True])
def test_given_mask_is_resampled_to_image(
    run: Run, tmp_path: Path, flair: Path, make_phantom: Callable[..., Any], trailing: bool
) -> None:
    """Masks of other pipelines may have other stored axes, or a fourth axis of length 1."""
    stored = make_phantom("LPS", COARSE)
    mask = (stored.image("FLAIR") > 0).astype(np.uint8)
    path = tmp_path / "given.nii.gz"
    nib.save(nib.Nifti1Image(mask[..., None] if trailing else mask, stored.affine), path)
    found = run(FindBrain, in_file=flair, given_mask=path)
    assert found.how == "given"
    assert (read(found.mask_file) > 0).sum() == mask.sum()
    assert ((read(found.mask_file) > 0) == (read(str(flair)) > 0)).mean() > 0.999


def test_given_mask_without_overlap_is_refused(run: Run, tmp_path: Path, flair: Path) -> None:
    path = tmp_path / "far.nii.gz"
    affine = np.diag([1.0, 1, 1, 1])
    affine[:3, 3] = 1000
    nib.save(nib.Nifti1Image(np.ones((9, 9, 9), np.uint8), affine), path)
    with pytest.raises(NodeExecutionError, match="does not overlap the FLAIR"):
        run(FindBrain, in_file=flair, given_mask=path)


def test_coregister_recovers_rotation(
    run: Run, tmp_path: Path, flair: Path, brain: Path, make_phantom: Callable[..., Any]
) -> None:
    t1w = make_phantom("RAS", (3.0, 3.0, 3.0), turn=6.0).write(tmp_path / "t1w.nii.gz", "T1w")
    # the phantom turns with its grid; a straight affine makes the image appear rotated
    image = nib.load(t1w)
    straight = make_phantom("RAS", (3.0, 3.0, 3.0)).affine
    nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32), straight), t1w)
    found = run(Coregister, moving_file=t1w, fixed_file=flair, fixed_mask=brain)
    affine = read_itk_affine(Path(found.transform_file))
    angle = np.rad2deg(np.arctan2(affine[1, 0], affine[0, 0]))
    assert abs(angle) == pytest.approx(6.0, abs=1.0)
    assert np.linalg.norm(affine[:3, 3]) < 2


def test_bias_is_reduced_and_stack_holds_flair_only(run: Run, flair: Path, brain: Path) -> None:
    image = nib.load(flair)
    ramp = np.linspace(0.7, 1.3, image.shape[0])[:, None, None]
    nib.save(nib.Nifti1Image((image.get_fdata() * ramp).astype("f4"), image.affine), flair)
    corrected = run(CorrectBias, flair_file=flair, mask_file=brain).flair_file
    stack = Stack.load(Path(run(BuildStack, flair_file=corrected, mask_file=brain).stack_file))
    assert stack.present == (True, False, False)
    assert stack.slice_mm == pytest.approx(max(image.header.get_zooms()))
    assert not stack.data[1:].any()
    white = image.get_fdata().round(-1) == 100
    before, after = (np.asarray(nib.load(p).dataobj)[white] for p in (flair, corrected))
    assert after.std() / after.mean() < 0.6 * before.std() / before.mean()


def test_segment_gives_maps_on_grid_of_stack(run: Run, tmp_path: Path, bright_model: Path) -> None:
    shape = (40, 44, 36)
    data = np.zeros((3, *shape), np.float32)
    brain = np.zeros(shape, bool)
    brain[4:-4, 4:-4, 4:-4] = True
    data[0] = np.where(brain, 0.0, -3.0)
    data[0, 20:26, 20:26, 16:22] = 5.0
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[:3, 3] = (-7, 3, 11)
    path = tmp_path / "stack.npz"
    Stack(data, (True, False, False), brain, affine, 1.0).save(path)
    given = {"stack_file": path, "model_file": bright_model, "device": "cpu"}
    found = run(Segment, **given)
    maps = {
        name: nib.load(getattr(found, f"{name}_file"))
        for name in ("probability", "candidate", "lesion", "candidates", "anatomy")
    }
    for image in maps.values():
        assert image.shape == shape
        np.testing.assert_allclose(image.affine, affine)
    anatomy = np.asarray(maps["anatomy"].dataobj)
    assert anatomy.dtype == np.uint8
    assert (anatomy[brain] == Anatomy.WHITE_MATTER).all()
    assert not anatomy[~brain].any()
    steps = np.asarray(maps["candidate"].dataobj) * 1024
    np.testing.assert_array_equal(steps, np.rint(steps))
    assert steps.max() > 512
    over = np.asarray(maps["probability"].dataobj) >= 0.5
    assert over[21:25, 21:25, 17:21].all()
    assert not over[~brain].any()
    assert over.sum() < 12**3
    again = run(Segment, **given)
    assert Path(again.probability_file).read_bytes() == Path(found.probability_file).read_bytes()


def test_segment_refuses_invalid_model_file(run: Run, tmp_path: Path) -> None:
    model, stack = tmp_path / "m.safetensors", tmp_path / "stack.npz"
    model.write_bytes(b"no model")
    Stack(
        np.zeros((3, 8, 8, 8), np.float32), (True,) * 3, np.ones((8,) * 3, bool), np.eye(4), 1.0
    ).save(stack)
    with pytest.raises(NodeExecutionError, match="not a usable cascade"):
        run(Segment, stack_file=stack, model_file=model, device="cpu")


def ellipsoid(half_axes: tuple[float, float, float]) -> np.ndarray:
    """Return the scaled distance from the centre of a 4 mm grid; it is 1 on the surface."""
    axes = (np.linspace(-4.0 * n, 4.0 * n, 2 * n + 1) for n in (26, 32, 26))
    x, y, z = np.meshgrid(*axes, indexing="ij")
    a, b, c = half_axes
    return np.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2)


@pytest.fixture
def both(tmp_path: Path) -> dict[str, Path]:
    """A head of 2.9 L, and the brain in it of 1.6 L, as images of 4 mm."""
    radius = ellipsoid((68.0, 84.0, 66.0))
    brain = np.where(radius < 1, 100 + 5 * np.cos(20 * radius), 0)
    head = np.where((radius >= 1) & (radius < 1.04), 60, brain)
    head = np.where((radius >= 1.04) & (radius < 1.12), 5, head)
    head = np.where((radius >= 1.12) & (radius < 1.22), 200, head)
    paths = {}
    for name, data in (("brain", brain), ("head", head)):
        paths[name] = tmp_path / f"{name}.nii.gz"
        image = nib.Nifti1Image(data.astype(np.float32), np.diag([4.0, 4.0, 4.0, 1.0]))
        nib.save(image, paths[name])
    return paths


@pytest.mark.parametrize(
    ("image", "option", "sidecar", "how", "notes"),
    [
        ("head", "auto", "auto", "deepbet", 0),
        ("head", "auto", "no", "deepbet", 0),
        ("head", "auto", "yes", "deepbet", 1),
        ("head", "no", "yes", "deepbet", 1),
        ("brain", "auto", "auto", "stripped", 0),
        ("brain", "auto", "yes", "stripped", 0),
        ("brain", "auto", "no", "stripped", 1),
        ("brain", "no", "no", "deepbet", 2),
        # a head that the option declares a brain is too large: one more note
        ("head", "yes", "auto", "stripped", 2),
        ("head", "yes", "yes", "stripped", 3),
    ],
)
def test_skull_stripping_follows_option_then_image(
    run: Run,
    both: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    image: str,
    option: str,
    sidecar: str,
    how: str,
    notes: int,
) -> None:
    truth = read(str(both["brain"])) > 0
    monkeypatch.setattr(brain_steps, "extract_brain", lambda *_, **__: truth)
    found = run(FindBrain, in_file=both[image], skull_stripped=option, sidecar=sidecar)
    assert found.how == how
    assert len(found.notes) == notes


@pytest.mark.parametrize("contrast", ["T1w", "T2w", "T1w of another head"])
@pytest.mark.parametrize("failure_reason", ["", "little information"])
def test_contrast_with_failed_alignment_is_left_out(
    run: Run,
    flair: Path,
    brain: Path,
    monkeypatch: pytest.MonkeyPatch,
    contrast: str,
    failure_reason: str,
) -> None:
    result = Registration(np.eye(4), 0.2, 0.2, ("a note",), failure_reason)
    monkeypatch.setattr(preprocess, "register_rigid", lambda *_, **__: result)
    given = {"contrast": contrast, "moving_file": flair, "fixed_file": flair, "fixed_mask": brain}
    found = run(Coregister, **given)
    assert isdefined(found.transform_file) == isdefined(found.used_file) == (not failure_reason)
    np.testing.assert_array_equal(read_itk_affine(Path(found.attempt_file)), np.eye(4))
    assert found.left_out == [contrast] * bool(failure_reason)
    assert [contrast in fault for fault in found.faults] == [True] * bool(failure_reason)
    assert found.notes == ["a note"]


@pytest.mark.parametrize("failure_reason", ["", "the brains do not overlap", "turned"])
def test_untrusted_template_is_not_used_to_check_brain(
    run: Run, flair: Path, brain: Path, monkeypatch: pytest.MonkeyPatch, failure_reason: str
) -> None:
    result = Registration(np.eye(4), 0.2, 0.2, (), failure_reason)
    monkeypatch.setattr(preprocess, "register_affine", lambda *_, **__: result)
    template = "MNI152NLin2009aSym"
    fit = run(FitTemplate, flair_file=flair, mask_file=brain, template=template)
    assert fit.trusted == (not failure_reason)
    assert len(fit.faults) == bool(failure_reason)
    monkeypatch.setattr(
        brain_steps,
        "check_brain",
        lambda _, mask, *__, **___: CheckedBrain(~mask, mask, ("cut",), ("look",)),
    )
    found = run(
        CheckBrain,
        flair_file=flair,
        mask_file=brain,
        how="deepbet",
        template_transform=fit.transform_file,
        trusted=fit.trusted,
    )
    assert isdefined(found.extracerebral_file) == (not failure_reason)
    assert (found.mask_file == str(brain)) == bool(failure_reason)
    assert (found.notes, found.faults) == (([], []) if failure_reason else (["cut"], ["look"]))


@pytest.mark.parametrize("how", ["given", "stripped", "deepbet"])
def test_unchanged_brain_mask_is_same_file(
    run: Run, flair: Path, brain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    asked = []

    def check(_: object, mask: np.ndarray, *__: object, repair: bool) -> CheckedBrain:
        asked.append(repair)
        return CheckedBrain(mask, ~mask)

    monkeypatch.setattr(brain_steps, "check_brain", check)
    move = tmp_path / "move.txt"
    write_itk_affine(np.eye(4), move)
    found = run(
        CheckBrain,
        flair_file=flair,
        mask_file=brain,
        how=how,
        template_transform=move,
        trusted=True,
    )
    assert found.mask_file == str(brain)
    assert asked == [how != "given"]
    assert ((read(found.extracerebral_file) > 0) == (read(str(brain)) == 0)).all()
