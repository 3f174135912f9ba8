"""A model folder of nnU-Net: its files, the command line of its program, and nnU-Net itself."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bids_msseg.errors import DataError, MssegError, NoInputError, UsageError
from bids_msseg.imaging.volume import load_volume
from bids_msseg.models.engine import Engine
from bids_msseg.segmenters.images import VisitImages
from bids_msseg.segmenters.nnunet import _choose_device, open_nnunet
from bids_msseg.segmenters.nnunet_folder import PROGRAM

NAME = "nnUNetTrainer__nnUNetPlans__3d_fullres"
DATASET: dict[str, Any] = {
    "channel_names": {"0": "FLAIR", "1": "T1w"},
    "labels": {"background": 0, "lesion": 1},
    "numTraining": 1,
    "file_ending": ".nii.gz",
}
CONVOLUTION = "torch.nn.modules.conv.Conv3d"
RESAMPLING = "resample_data_or_seg_to_shape"
ARCHITECTURE: dict[str, Any] = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "arch_kwargs": {
        "n_stages": 2,
        "features_per_stage": [4, 8],
        "conv_op": CONVOLUTION,
        "kernel_sizes": [[3, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [2, 2, 2]],
        "n_conv_per_stage": [1, 1],
        "n_conv_per_stage_decoder": [1],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    },
    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
}
CONFIGURATION: dict[str, Any] = {
    "data_identifier": "nnUNetPlans_3d_fullres",
    "preprocessor_name": "DefaultPreprocessor",
    "batch_size": 2,
    "patch_size": [16, 16, 16],
    "median_image_size_in_voxels": [14, 14, 14],
    "spacing": [1.0, 1.0, 1.0],
    "normalization_schemes": ["ZScoreNormalization"] * 2,
    "use_mask_for_norm": [False, False],
    "resampling_fn_data": RESAMPLING,
    "resampling_fn_seg": RESAMPLING,
    "resampling_fn_data_kwargs": {
        "is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None
    },
    "resampling_fn_seg_kwargs": {
        "is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None
    },
    "resampling_fn_probabilities": RESAMPLING,
    "resampling_fn_probabilities_kwargs": {
        "is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None
    },
    "architecture": ARCHITECTURE,
    "batch_dice": False,
}  # fmt: skip
PLANS: dict[str, Any] = {
    "dataset_name": "Dataset001_Small",
    "plans_name": "nnUNetPlans",
    "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
    "original_median_shape_after_transp": [14, 14, 14],
    "image_reader_writer": "SimpleITKIO",
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "configurations": {"3d_fullres": CONFIGURATION},
    "experiment_planner_used": "ExperimentPlanner",
    "label_manager": "LabelManager",
    "foreground_intensity_properties_per_channel": {
        channel: {"mean": 100.0, "std": 10.0, "percentile_00_5": 50.0, "percentile_99_5": 200.0}
        for channel in ("0", "1")
    },
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model folder with a dummy checkpoint."""
    folder = tmp_path / "Dataset001_Small" / NAME
    (folder / "fold_0").mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    (folder / "plans.json").write_text(json.dumps(PLANS))
    (folder / "fold_0" / "checkpoint_final.pth").write_bytes(b"weights")
    return folder


FAKE_PROGRAM = """
import json, os, sys
import nibabel as nib
import numpy as np

words = sys.argv[1:]
given, out = words[words.index("-i") + 1], words[words.index("-o") + 1]
json.dump({"words": words, "files": sorted(os.listdir(given)),
           "threads": os.environ["nnUNet_def_n_proc"]}, open("seen.json", "w"))
data = np.asarray(nib.load(os.path.join(given, "visit_0000.nii.gz")).dataobj)
lesion = (data > 150).astype(np.float32).transpose(2, 1, 0)
os.makedirs(out)
if "--disable_tta" in words:
    open(os.path.join(out, "visit.npz"), "w").write("no archive")
elif words[words.index("-step_size") + 1] != "1":
    np.savez(os.path.join(out, "visit.npz"), probabilities=np.stack([1 - lesion, lesion]))
"""


@pytest.fixture
def fake_program(make_program: Callable[..., Path]) -> Path:
    """Fake nnU-Net program, which tests only the adapter."""
    return make_program(PROGRAM, FAKE_PROGRAM)


def test_program_gets_expected_command_line(
    model: Path, fake_program: Path, images: VisitImages
) -> None:
    segmenter = open_nnunet({"model": str(model), "program": str(fake_program)})
    segmenter.check()
    found = segmenter.segment(images, threads=2, device="cpu")
    bright = load_volume(images.files["FLAIR"]).data > 150
    np.testing.assert_array_equal(found.data, bright.astype(np.float32))
    seen = json.loads((images.folder / "seen.json").read_text())
    assert seen["files"] == ["visit_0000.nii.gz", "visit_0001.nii.gz"]
    assert seen["threads"] == "2"
    given, out = images.folder / "nnunet_in", images.folder / "nnunet_out"
    assert seen["words"] == [
        "-i", str(given), "-o", str(out), "-m", str(model), "-f", "0",
        "-chk", "checkpoint_final.pth", "-step_size", "0.5", "-device", "cpu",
        "-npp", "1", "-nps", "1", "--save_probabilities",
    ]  # fmt: skip
    second = load_volume(given / "visit_0001.nii.gz").data
    np.testing.assert_array_equal(second, load_volume(images.files["T1w"]).data)


@pytest.mark.parametrize(
    ("options", "kind"), [({"mirroring": False}, DataError), ({"step": 1}, MssegError)]
)
def test_unusable_program_output_is_refused(
    model: Path,
    fake_program: Path,
    images: VisitImages,
    options: dict[str, Any],
    kind: type[MssegError],
) -> None:
    segmenter = open_nnunet({"model": str(model), "program": str(fake_program), **options})
    with pytest.raises(kind, match=r"visit\.npz"):
        segmenter.segment(images, threads=1, device="cpu")


def test_missing_contrast_is_refused(
    model: Path, fake_program: Path, flair_only: VisitImages
) -> None:
    segmenter = open_nnunet({"model": str(model), "program": str(fake_program)})
    with pytest.raises(DataError, match="T1w"):
        segmenter.segment(flair_only, threads=1, device="cpu")


def test_missing_package_and_program_are_refused(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", {}.get)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="need the package"):
        open_nnunet({"model": str(model)}).check()
    with pytest.raises(UsageError, match="program not found"):
        open_nnunet({"model": str(model), "program": str(tmp_path / PROGRAM)}).check()


def test_program_on_path_is_used_without_package(
    model: Path, fake_program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", {}.get)
    monkeypatch.setenv("PATH", str(fake_program.parent), prepend=":")
    segmenter = open_nnunet({"model": str(model)})
    assert segmenter.program == str(fake_program)
    segmenter.check()


@pytest.mark.parametrize(
    ("visible", "device", "expected"),
    [
        (None, "cpu", ("cpu", {})),
        (None, "cuda", ("cuda", {})),
        (None, "cuda:1", ("cuda", {"CUDA_VISIBLE_DEVICES": "1"})),
        ("4,7", "cuda:1", ("cuda", {"CUDA_VISIBLE_DEVICES": "7"})),
    ],
)
def test_choose_device_sets_visible_gpu(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, device: str, expected: object
) -> None:
    monkeypatch.setattr("bids_msseg.models.engine.choose_engine", Engine)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert _choose_device(device) == expected


def test_digest_covers_files_and_settings(model: Path, tmp_path: Path) -> None:
    first = open_nnunet({"model": str(model)}).describe()
    assert (first.name, first.contrasts) == ("Dataset001_Small", ("FLAIR", "T1w"))
    moved = shutil.copytree(model, tmp_path / "elsewhere" / NAME)
    assert open_nnunet({"model": str(moved)}).describe().sha256 == first.sha256
    changes: list[dict[str, Any]] = [
        {"mirroring": False},
        {"step": 0.7},
        {"channels": ["FLAIR", "T2w"]},
    ]
    for more in changes:
        assert open_nnunet({"model": str(model), **more}).describe().sha256 != first.sha256
    (model / "fold_0" / "checkpoint_final.pth").write_bytes(b"other weights")
    assert open_nnunet({"model": str(model)}).describe().sha256 != first.sha256


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({}, UsageError),
        ({"model": "/no/such/folder"}, NoInputError),
        ({"folds": [3]}, NoInputError),
        ({"checkpoint": "checkpoint_best.pth"}, NoInputError),
        ({"channels": ["FLAIR"]}, UsageError),
        ({"label": "tumour"}, UsageError),
        ({"step": 1.5}, UsageError),
    ],
)
def test_unusable_options_are_refused(
    model: Path, options: dict[str, Any], kind: type[MssegError]
) -> None:
    given = options if "model" in options or not options else {"model": str(model), **options}
    with pytest.raises(kind):
        open_nnunet(given)


def trained_network() -> Any:
    """Train nnU-Net's network of :data:`ARCHITECTURE` on random phantoms like ``images``."""
    import torch
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    torch.manual_seed(1)
    net = get_network_from_plans(
        ARCHITECTURE["network_class_name"],
        ARCHITECTURE["arch_kwargs"],
        ARCHITECTURE["_kw_requires_import"],
        2,
        2,
        allow_init=True,
        deep_supervision=False,
    )
    rng = np.random.default_rng(1)
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    weight = torch.tensor([1.0, 10.0])
    for _ in range(200):
        lesion = np.zeros((4, 6, 6, 6), bool)
        for number in range(4):
            x, y, z = rng.integers(0, 5, 3)
            lesion[number, x : x + 2, y : y + 2, z : z + rng.integers(1, 3)] = True
        stack = np.stack([np.where(lesion, 200, 100), np.where(lesion, 40, 140)], 1)
        centred = stack - stack.mean((2, 3, 4), keepdims=True)
        scaled = centred / stack.std((2, 3, 4), keepdims=True)
        # nnU-Net cuts the brain out, scales its intensities and pads it with zeros
        scaled = np.pad(scaled, [(0, 0), (0, 0), *[(5, 5)] * 3])
        lesion = np.pad(lesion, [(0, 0), *[(5, 5)] * 3])
        found = net(torch.from_numpy(scaled.astype(np.float32)))
        truth = torch.from_numpy(lesion.astype(np.int64))
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(found, truth, weight).backward()
        optimiser.step()
    return net


@pytest.mark.slow
def test_trained_network_finds_the_lesion_as_package_and_as_program(
    model: Path, images: VisitImages
) -> None:
    """Real nnU-Net with a small network that is trained here, in this process and as a program."""
    pytest.importorskip("nnunetv2")
    import torch

    torch.save(
        {
            "network_weights": trained_network().state_dict(),
            "trainer_name": "nnUNetTrainer",
            "init_args": {"configuration": "3d_fullres"},
            "inference_allowed_mirroring_axes": (0, 1, 2),
        },
        model / "fold_0" / "checkpoint_final.pth",
    )
    program = Path(sys.executable).with_name(PROGRAM)
    brain = load_volume(images.brain).data > 0
    lesion = brain & (load_volume(images.files["FLAIR"]).data > 150)
    assert lesion.sum() == 4
    maps = []
    for options in ({"model": str(model)}, {"model": str(model), "program": str(program)}):
        segmenter = open_nnunet(options)
        segmenter.check()
        maps.append(segmenter.segment(images, threads=1, device="cpu").data)
        np.testing.assert_array_equal(maps[-1] >= 0.5, lesion)
        assert not maps[-1][~brain].any()
    np.testing.assert_allclose(maps[0], maps[1], atol=1e-3)
