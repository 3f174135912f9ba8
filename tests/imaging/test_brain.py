"""Brain extraction, and detection of skull-stripped images."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from bids_msseg.errors import DataError
from bids_msseg.imaging import brain
from bids_msseg.imaging.brain import (
    brain_notes,
    brain_volume_ml,
    contradictions,
    extract_brain,
    is_skull_stripped,
    mask_from_stripped,
    support,
)
from bids_msseg.imaging.conform import canonical
from bids_msseg.imaging.volume import Volume, load_volume

from .conftest import CONTRASTS, head


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * float((one & other).sum()) / float(one.sum() + other.sum())


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_head_and_skull_stripped_brain_are_distinguished(contrast: str) -> None:
    assert not is_skull_stripped(head(contrast)[0])
    assert is_skull_stripped(head(contrast, stripped=True)[0])


def test_thin_slab_of_head_is_not_skull_stripped() -> None:
    whole = head("FLAIR")[0]
    slab = whole.with_data(whole.data[:, :, 25:35])
    assert support(slab).volume_ml < brain.STRIPPED_BELOW_ML
    assert not is_skull_stripped(slab)


def test_head_with_noisy_air_is_not_skull_stripped() -> None:
    volume = head("T1w")[0]
    noise = np.random.default_rng(0).uniform(1, 30, volume.shape)
    assert not is_skull_stripped(volume.with_data(np.where(volume.data > 0, volume.data, noise)))


def test_constant_image_is_not_skull_stripped() -> None:
    volume = Volume(np.zeros((9, 9, 9), np.float32), np.eye(4))
    assert not is_skull_stripped(volume)
    assert support(volume) == brain.Support(0.0, 0.0)


@settings(max_examples=15, deadline=None)
@given(
    gain=st.floats(0.01, 1e4),
    background=st.floats(-1e3, 1e3),
    pad=st.integers(0, 6),
    stripped=st.booleans(),
)
def test_skull_strip_detection_ignores_scale_background_padding(
    gain: float, background: float, pad: int, stripped: bool
) -> None:
    volume = head("FLAIR", (6, 6, 6), stripped=stripped)[0]
    data = np.pad(volume.data, pad).astype(np.float64) * gain + background
    assert is_skull_stripped(volume.with_data(data)) == stripped


def test_support_measures_millilitres_and_dark_share() -> None:
    data = np.zeros((30, 30, 20), np.float32)
    data[5:25, 5:25, 5:15] = 100
    data[10:20, 10:20, 5:15] = 0
    found = support(Volume(data, np.diag([2.0, 1.0, 3.0, 1.0])))
    assert found.volume_ml == pytest.approx(20 * 20 * 10 * 6 / 1000)
    assert found.dark_share == pytest.approx(0.25)


@pytest.mark.parametrize("background", [0.0, -7.0])
def test_mask_from_stripped_keeps_the_largest_part_and_fills_it(background: float) -> None:
    data = np.full((20, 20, 20), background, np.float32)
    data[4:14, 4:14, 4:14] = 5
    data[8, 8, 8] = background
    data[17:19, 17:19, 17:19] = 5
    expected = np.zeros(data.shape, bool)
    expected[4:14, 4:14, 4:14] = True
    np.testing.assert_array_equal(mask_from_stripped(Volume(data, np.eye(4))), expected)


def test_mask_from_constant_image_is_a_user_error() -> None:
    with pytest.raises(DataError, match="no brain"):
        mask_from_stripped(Volume(np.ones((5, 5, 5), np.float32), np.eye(4)))


def test_brain_volume_outside_limits_is_noted() -> None:
    mask = np.ones((10, 10, 10), bool)
    assert brain_volume_ml(mask, 2.5) == 2.5
    for size, noted in ((699, True), (700, False), (2200, False), (2201, True)):
        assert bool(brain_notes(mask, float(size))) == noted


@pytest.mark.parametrize("shown", [True, False])
@pytest.mark.parametrize("option", ["auto", "yes", "no"])
@pytest.mark.parametrize("sidecar", ["auto", "yes", "no"])
def test_option_or_sidecar_contradicting_image_is_reported(
    shown: bool, option: str, sidecar: str
) -> None:
    wrong = "no" if shown else "yes"
    found = contradictions(shown, option=option, sidecar=sidecar)
    assert len(found) == (option == wrong) + (sidecar == wrong)
    assert any("--skull-stripped says" in one for one in found) == (option == wrong)
    assert any("the sidecar says" in one for one in found) == (sidecar == wrong)


@pytest.fixture(scope="module")
def flair() -> tuple[Volume, np.ndarray, np.ndarray]:
    """A synthetic FLAIR head, its true brain mask, and the extracted brain mask."""
    volume, truth = head("FLAIR", (4, 4, 4))
    return volume, truth, extract_brain(volume)


@pytest.mark.slow
def test_extracted_mask_matches_brain_of_synthetic_head(
    flair: tuple[Volume, np.ndarray, np.ndarray],
) -> None:
    volume, truth, mask = flair
    assert mask.shape == volume.shape
    assert mask.dtype == bool
    assert ndimage.label(mask)[1] == 1
    assert dice(mask, truth) > 0.93
    assert brain_notes(mask, volume.voxel_volume) == ()


@pytest.mark.slow
def test_extracted_mask_follows_image_axes(flair: tuple[Volume, np.ndarray, np.ndarray]) -> None:
    volume, _, straight = flair
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = volume.shape[0] - 1
    swap = np.eye(4)[:, [2, 0, 1, 3]]
    turned = Volume(volume.data[::-1].transpose(2, 0, 1), volume.affine @ flip @ swap)
    np.testing.assert_array_equal(canonical(turned).data, volume.data)
    np.testing.assert_array_equal(extract_brain(turned).transpose(1, 2, 0)[::-1], straight)


def test_networks_always_run_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = brain.bet.torch
    seen = []

    def note_threads(*_: object) -> np.ndarray:
        seen.append(torch.get_num_threads())
        raise ValueError("seen enough")

    monkeypatch.setattr(brain.bet.BrainExtraction, "run_model", note_threads)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(DataError, match="no brain"):
            extract_brain(head("FLAIR", (9, 9, 9))[0], threads=2)
        assert seen == [1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_image_without_a_brain_is_a_user_error() -> None:
    data = np.zeros((40, 40, 40), np.float32)
    data[0, 0, 0] = 1
    with pytest.raises(DataError, match="no brain"):
        extract_brain(Volume(data, np.eye(4)))


@pytest.mark.slow
def test_extract_brain_needs_no_home_and_writes_no_files(tmp_path: Path) -> None:
    code = (
        "import numpy as np, sys; sys.path[:0] = [sys.argv[1]]\n"
        "from bids_msseg.imaging.brain import extract_brain\n"
        "from tests.imaging.conftest import head\n"
        "print(extract_brain(head('T1w', (5, 5, 5))[0]).sum())\n"
    )
    kept = {k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME")}
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code, root],
        cwd=tmp_path, env=kept | {"HOME": "/nonexistent"}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert int(done.stdout.split()[-1]) > 5000
    assert list(tmp_path.iterdir()) == []


@pytest.mark.realdata
@pytest.mark.slow
def test_skull_strip_detection_is_correct_for_all_real_flairs(shared_data: Path) -> None:
    margins: dict[str, list[float]] = {}
    for cohort, expected in (("ms-cohort", True), ("raw-heads", False)):
        paths = sorted((shared_data / cohort).glob("sub-*/**/*_FLAIR.nii.gz"))
        assert paths
        for path in paths:
            volume = canonical(load_volume(path))
            assert is_skull_stripped(volume) == expected, path.name
            margins.setdefault(cohort, []).append(support(volume).dark_share)
    # the gap between the classes is larger than the threshold itself
    assert max(margins["ms-cohort"]) < brain.STRIPPED_BELOW_DARK_SHARE * 0.6
    assert min(margins["raw-heads"]) > brain.STRIPPED_BELOW_DARK_SHARE * 1.6


@pytest.mark.realdata
@pytest.mark.slow
def test_brain_volume_of_real_flair_is_in_expected_range(shared_data: Path) -> None:
    folder = shared_data / "raw-heads" / "sub-12" / "ses-1" / "anat"
    volume = canonical(load_volume(folder / "sub-12_ses-1_FLAIR.nii.gz"))
    mask = extract_brain(volume)
    assert 1400 < brain_volume_ml(mask, volume.voxel_volume) < 1580
