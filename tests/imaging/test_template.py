"""The embedded template, and templates from a TemplateFlow folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from bids_msseg.errors import DataError, NoInputError, TemporaryError
from bids_msseg.imaging.template import EMBEDDED, Template, embedded_directory, load_template

VENTRICLE, CORTEX, INFRATENTORIAL, OTHER = 1, 2, 3, 4


@pytest.fixture(scope="module")
def embedded() -> Template:
    return load_template()


def at(template: Template, x: float, y: float, z: float) -> int:
    """Region at a point in MNI mm."""
    index = np.linalg.inv(template.volume.affine) @ [x, y, z, 1]
    i, j, k = np.round(index[:3]).astype(int)
    assert template.regions is not None
    return int(template.regions[i, j, k])


def fill(home: Path, name: str, endings: dict[str, np.ndarray]) -> Path:
    """Make a TemplateFlow folder of small images."""
    folder = home / f"tpl-{name}"
    folder.mkdir(parents=True)
    for ending, data in endings.items():
        nib.Nifti1Image(data, np.diag([-2.0, 2, 2, 1])).to_filename(
            folder / f"tpl-{name}_res-01_{ending}.nii.gz"
        )
    return folder


def picture() -> tuple[np.ndarray, np.ndarray]:
    """A head of intensity 100 with a brain of intensity 200, and the brain mask."""
    mask = np.zeros((10, 11, 12), np.uint8)
    mask[3:7, 3:8, 3:9] = 1
    return np.where(mask, np.float32(200), np.float32(100)), mask


def test_embedded_template_is_complete(embedded: Template) -> None:
    assert embedded.name == EMBEDDED == "MNI152NLin2009aSym"
    assert embedded.volume.shape == embedded.mask.shape == (197, 233, 189)
    np.testing.assert_array_equal(embedded.volume.affine[:3, 3], (-98, -134, -72))
    np.testing.assert_array_equal(embedded.volume.spacing, (1, 1, 1))
    assert embedded.mask.sum() == 1_886_539
    assert (embedded.volume.data[~embedded.mask] == 0).all()
    assert (embedded.volume.data[embedded.mask] > 0).all()


@pytest.mark.usefixtures("no_network")
def test_embedded_template_needs_no_network() -> None:
    assert load_template().mask.any()


def test_template_folder_is_small_and_has_licence() -> None:
    folder = embedded_directory()
    size = sum(p.stat().st_size for p in folder.parent.rglob("*") if p.is_file())
    assert size < 8_000_000
    licence = (folder.parent / "LICENSE").read_text()
    assert "Louis Collins, McConnell Brain Imaging Centre" in licence
    assert "provided\nthat the above copyright notice appear in all copies" in licence


def test_tissue_probabilities_sum_to_at_most_one() -> None:
    folder = embedded_directory()
    grey, white = (
        nib.load(folder / f"tpl-{EMBEDDED}_res-1_label-{kind}_probseg.nii.gz").get_fdata()
        for kind in ("GM", "WM")
    )
    assert grey.max() == pytest.approx(1.0)
    assert (grey + white).max() < 1.001
    assert white[98 - 25, 134 + 20, 72 + 20] > 0.9


def test_regions_cover_exactly_the_brain_mask(embedded: Template) -> None:
    assert embedded.regions is not None
    assert embedded.regions.dtype == np.uint8
    np.testing.assert_array_equal(embedded.regions > 0, embedded.mask)
    millilitres = np.bincount(embedded.regions.ravel())[1:] / 1000
    np.testing.assert_allclose(millilitres, (24.9, 979, 243, 639), rtol=0.01)


@pytest.mark.parametrize("side", [-1, 1])
@pytest.mark.parametrize(
    ("place", "region"),
    [
        ((5, 10, 10), VENTRICLE), ((14, -20, 20), VENTRICLE), ((24, -44, 8), VENTRICLE),
        ((0, -18, -2), VENTRICLE),
        ((38, 2, 0), CORTEX), ((40, -22, 56), CORTEX), ((28, -22, -14), CORTEX),
        ((12, -90, 2), CORTEX), ((60, -20, -10), CORTEX),
        ((0, -28, -30), INFRATENTORIAL), ((0, -38, -52), INFRATENTORIAL),
        ((0, -30, -8), INFRATENTORIAL), ((30, -65, -40), INFRATENTORIAL),
        ((0, -60, -15), INFRATENTORIAL), ((0, -44, -32), INFRATENTORIAL),
        ((24, 20, 22), OTHER), ((0, 28, 4), OTHER), ((11, -20, 8), OTHER), ((26, 4, 2), OTHER),
        ((28, -60, 18), OTHER), ((20, -10, 6), OTHER),
    ],
)  # fmt: skip
def test_regions_at_known_places(
    embedded: Template, place: tuple[float, float, float], region: int, side: int
) -> None:
    x, y, z = place
    assert at(embedded, side * x, y, z) == region


def test_tentorium_separates_occipital_lobe_from_cerebellum(embedded: Template) -> None:
    for x in (-25, 25):
        column = [at(embedded, x, -70, z) for z in range(-55, 20)]
        change = [i for i in range(1, len(column)) if (column[i] == 3) != (column[i - 1] == 3)]
        assert len(change) == 1
        assert -28 < change[0] - 55 < -8


def test_regions_are_symmetric_and_connected(embedded: Template) -> None:
    regions = embedded.regions
    assert regions is not None
    assert (regions == regions[::-1]).mean() > 0.999
    for region in (VENTRICLE, INFRATENTORIAL):
        sizes = np.bincount(ndimage.label(regions == region, np.ones((3, 3, 3)))[0].ravel())[1:]
        assert sizes.max() > 0.97 * sizes.sum()


@pytest.mark.usefixtures("no_network")
def test_filled_folder_is_used_without_network(tmp_path: Path) -> None:
    head, mask = picture()
    folder = fill(tmp_path, "Made", {"desc-brain_T1w": head * mask, "desc-brain_mask": mask})
    template = load_template("Made", home=tmp_path, online=False)
    assert (template.name, template.directory, template.regions) == ("Made", folder, None)
    assert nib.aff2axcodes(template.volume.affine) == ("R", "A", "S")
    np.testing.assert_array_equal(template.mask, mask[::-1] > 0)
    np.testing.assert_array_equal(template.volume.data, (head * mask)[::-1])


@pytest.mark.usefixtures("no_network")
def test_template_head_is_masked_to_brain(tmp_path: Path) -> None:
    head, mask = picture()
    folder = fill(tmp_path, "Made", {"T1w": head, "desc-brain_mask": mask})
    # an empty stub of a file that could be fetched is ignored
    (folder / "tpl-Made_res-01_desc-brain_T1w.nii.gz").touch()
    template = load_template("Made", home=tmp_path)
    np.testing.assert_array_equal(template.volume.data, (head * mask)[::-1])


def test_mask_defaults_to_foreground_of_brain_image(tmp_path: Path) -> None:
    head, mask = picture()
    fill(tmp_path, "Made", {"desc-brain_T1w": head * mask})
    template = load_template("Made", home=tmp_path, online=False)
    np.testing.assert_array_equal(template.mask, mask[::-1] > 0)


@pytest.mark.parametrize("missing", ["folder", "template", "resolution"])
def test_missing_template_offline_gives_prefill_hint(tmp_path: Path, missing: str) -> None:
    home = tmp_path / "home"
    if missing != "folder":
        head, mask = picture()
        name = "Other" if missing == "template" else "Made"
        fill(home, name, {"desc-brain_T1w": head * mask})
    resolution = 2 if missing == "resolution" else 1
    with pytest.raises(NoInputError) as caught:
        load_template("Made", resolution=resolution, home=home, online=False)
    assert "TEMPLATEFLOW_HOME" in caught.value.hint
    assert f"api.get('Made', resolution={resolution}" in caught.value.hint
    assert home.exists() == (missing != "folder")


@pytest.mark.usefixtures("no_network")
def test_fetch_without_network_is_a_temporary_error(tmp_path: Path) -> None:
    head, mask = picture()
    fill(tmp_path, "Made", {"desc-brain_T1w": head * mask})
    with pytest.raises(TemporaryError, match="MNI152NLin2009cAsym could not be fetched") as caught:
        load_template("MNI152NLin2009cAsym", home=tmp_path)
    assert "TEMPLATEFLOW_HOME" in caught.value.hint


def test_damaged_file_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "tpl-Made"
    folder.mkdir()
    path = folder / "tpl-Made_res-01_desc-brain_T1w.nii.gz"
    path.write_bytes(b"cut off")
    with pytest.raises(DataError, match="damaged") as caught:
        load_template("Made", home=tmp_path, online=False)
    assert path.name in caught.value.message


def test_mask_on_another_grid_is_refused(tmp_path: Path) -> None:
    head, mask = picture()
    fill(tmp_path, "Made", {"desc-brain_T1w": head, "desc-brain_mask": mask[1:]})
    with pytest.raises(DataError, match="not on the same grid"):
        load_template("Made", home=tmp_path, online=False)


@pytest.mark.parametrize("before", [None, "/somewhere/else"])
def test_templateflow_home_variable_is_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    monkeypatch.delenv("TEMPLATEFLOW_HOME", raising=False)
    if before is not None:
        monkeypatch.setenv("TEMPLATEFLOW_HOME", before)
    head, mask = picture()
    fill(tmp_path, "Made", {"desc-brain_T1w": head * mask})
    load_template("Made", home=tmp_path, online=False)
    assert os.environ.get("TEMPLATEFLOW_HOME") == before


@pytest.mark.usefixtures("no_network")
def test_embedded_folder_is_a_templateflow_folder(tmp_path: Path) -> None:
    shutil.copytree(embedded_directory(), tmp_path / f"tpl-{EMBEDDED}")
    for path in tmp_path.rglob("*"):
        if EMBEDDED in path.name:
            path.rename(path.with_name(path.name.replace(EMBEDDED, "Copy")))
    template = load_template("Copy", home=tmp_path, online=False)
    np.testing.assert_array_equal(template.mask, load_template().mask)
