"""Label images with their names, from files and from TemplateFlow's folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from bids_msseg.errors import DataError, NoInputError, TemporaryError
from bids_msseg.imaging.atlas import (
    Atlas,
    atlas_onto,
    embedded_atlas,
    find_table,
    read_atlas,
    read_names,
)
from bids_msseg.imaging.freesurfer import freesurfer_names
from bids_msseg.imaging.template import find_label_image, load_template
from bids_msseg.imaging.volume import Volume

Make = Callable[..., Path]
TABLE = "index\tname\n2\tleft\n5\tright\n9\tnowhere\n"
COLOURS = (
    "#No. Label Name: R G B A\n\n0 Unknown 0 0 0 0\n2 Left-Part 1 2 3 0\n5 Right-Part 4 5 6 0\n"
)


def labels() -> np.ndarray:
    """Labels 2 and 5 in the halves of a block."""
    data = np.zeros((6, 7, 8), np.int16)
    data[1:3, 1:6, 1:7], data[3:5, 1:6, 1:7] = 2, 5
    return data


class TestReadAtlas:
    @pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
    def test_labels_of_any_data_type_are_read(self, make_nifti: Make, dtype: type) -> None:
        affine = np.diag([-1.0, 1.5, 2.0, 1.0])
        atlas = read_atlas(make_nifti("parts.nii.gz", data=labels().astype(dtype), affine=affine))
        np.testing.assert_array_equal(atlas.volume.data, labels())
        np.testing.assert_array_equal(atlas.volume.affine, affine)
        assert atlas.volume.data.dtype == np.int32
        assert atlas.names == {2: "label 2", 5: "label 5"}

    def test_table_names_are_limited_to_present_labels(self, make_nifti: Make) -> None:
        path = make_nifti("sub-01_seg-parts_dseg.nii.gz", data=labels())
        path.with_name("sub-01_seg-parts_dseg.tsv").write_text(TABLE)
        assert read_atlas(path).names == {2: "left", 5: "right"}

    @pytest.mark.parametrize(
        "name", ["aparc+aseg.nii.gz", "sub-01_desc-aseg_dseg.nii.gz", "wmparc.nii"]
    )
    def test_freesurfer_needs_no_table(self, make_nifti: Make, name: str) -> None:
        data = np.zeros((5, 5, 5), np.int16)
        data[1, 1, 1:4] = 11, 1035, 12345
        assert read_atlas(make_nifti(name, data=data)).names == {
            11: "Left-Caudate",
            1035: "ctx-lh-insula",
            12345: "label 12345",
        }

    def test_mgz_file_is_read(self, tmp_path: Path) -> None:
        path = tmp_path / "aparc+aseg.mgz"
        affine = np.array([[-1.0, 0, 0, 3], [0, 0, 1, -4], [0, -1, 0, 5], [0, 0, 0, 1]])
        nib.save(nib.MGHImage(labels().astype(np.int32), affine), path)
        atlas = read_atlas(path)
        np.testing.assert_array_equal(atlas.volume.data, labels())
        np.testing.assert_allclose(atlas.volume.affine, affine, atol=1e-5)
        assert atlas.names == {2: "Left-Cerebral-White-Matter", 5: "Left-Inf-Lat-Vent"}
        assert atlas.name == "aparcaseg"

    @pytest.mark.parametrize(
        ("file", "name"),
        [
            ("tpl-X_res-01_atlas-Schaefer2018_desc-400Parcels_dseg.nii.gz", "Schaefer2018"),
            ("sub-01_space-T1w_seg-aparc_dseg.nii.gz", "aparc"),
            ("sub-01_desc-aparcaseg_dseg.nii.gz", "aparcaseg"),
            ("my_own-atlas.v2.nii.gz", "myownatlas"),
        ],
    )
    def test_atlas_name_is_derived_from_file_name(
        self, make_nifti: Make, file: str, name: str
    ) -> None:
        assert read_atlas(make_nifti(file, data=labels())).name == name

    def test_trailing_axis_of_length_one_is_dropped(self, make_nifti: Make) -> None:
        atlas = read_atlas(make_nifti(data=labels()[..., None]))
        assert atlas.volume.shape == (6, 7, 8)

    @pytest.mark.parametrize("value", [0.5, np.nan, np.inf, 3e9])
    def test_invalid_label_values_are_refused(self, make_nifti: Make, value: float) -> None:
        data = labels().astype(np.float64)
        data[2, 2, 2] = value
        with pytest.raises(DataError, match="not valid labels"):
            read_atlas(make_nifti(data=data))

    def test_four_dimensional_probability_image_is_refused(self, make_nifti: Make) -> None:
        with pytest.raises(DataError, match="has the shape"):
            read_atlas(make_nifti(data=np.zeros((5, 5, 5, 3), np.float32)))

    def test_missing_file_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(NoInputError, match="does not exist"):
            read_atlas(tmp_path / "nothing.nii.gz")

    @pytest.mark.parametrize("content", [b"", b"cut off", b"\x1f\x8b\x08\x00cut"])
    def test_damaged_file_is_refused(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "parts.nii.gz"
        path.write_bytes(content)
        with pytest.raises(DataError, match="cannot be read"):
            read_atlas(path)


class TestTable:
    @pytest.mark.parametrize(
        ("image", "table"),
        [
            ("a/x_dseg.nii.gz", "a/x_dseg.tsv"),
            ("tpl-X/tpl-X_res-01_atlas-A_dseg.nii.gz", "tpl-X/tpl-X_atlas-A_dseg.tsv"),
            ("tpl-X/cohort-1/tpl-X_cohort-1_atlas-A_dseg.nii.gz", "tpl-X/tpl-X_atlas-A_dseg.tsv"),
            ("sub-1/ses-2/anat/sub-1_ses-2_desc-aseg_dseg.nii.gz", "desc-aseg_dseg.tsv"),
            ("mri/aparc+aseg.mgz", "mri/aparc+aseg.tsv"),
        ],
    )
    def test_table_is_found_by_bids_inheritance(
        self, tmp_path: Path, image: str, table: str
    ) -> None:
        path, expected = tmp_path / image, tmp_path / table
        for one in (path, expected):
            one.parent.mkdir(parents=True, exist_ok=True)
        expected.write_text(TABLE)
        assert find_table(path) == expected

    @pytest.mark.parametrize(
        "other",
        [
            "sub-1_atlas-B_dseg.tsv",  # another value
            "sub-1_atlas-A_desc-x_dseg.tsv",  # an entity that the image lacks
            "sub-1_atlas-A_probseg.tsv",  # another suffix
            "participants.tsv",
        ],
    )
    def test_table_of_other_image_is_ignored(self, tmp_path: Path, other: str) -> None:
        (tmp_path / other).write_text(TABLE)
        assert find_table(tmp_path / "sub-1_atlas-A_dseg.nii.gz") is None

    def test_nearest_folder_then_most_entities_is_preferred(self, tmp_path: Path) -> None:
        folder = tmp_path / "anat"
        folder.mkdir()
        names = ["desc-a_dseg.tsv", "dseg.tsv", "sub-1_desc-a_dseg.tsv"]
        for place in (tmp_path, folder):
            for name in names:
                (place / name).write_text(TABLE)
        image = folder / "sub-1_space-T1w_desc-a_dseg.nii.gz"
        assert find_table(image) == folder / names[2]
        (folder / names[2]).unlink()
        assert find_table(image) == folder / names[0]

    def test_empty_table_file_is_ignored(self, tmp_path: Path) -> None:
        (tmp_path / "x_dseg.tsv").touch()
        assert find_table(tmp_path / "x_dseg.nii.gz") is None

    @pytest.mark.parametrize(
        ("name", "text", "expected"),
        [
            ("t.tsv", TABLE, {2: "left", 5: "right", 9: "nowhere"}),
            ("t.tsv", "\ufeffname\tcolor\tindex\na b\t#000000\t7\n", {7: "a b"}),
            ("lut.txt", COLOURS, {0: "Unknown", 2: "Left-Part", 5: "Right-Part"}),
        ],
    )
    def test_names_are_read_from_tsv_and_lut(
        self, tmp_path: Path, name: str, text: str, expected: dict[int, str]
    ) -> None:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        assert read_names(path) == expected

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("t.tsv", b""),
            ("t.tsv", b"index\tname\n"),
            ("t.tsv", b"index\tlabel\n1\ta\n"),
            ("t.tsv", b"name\na\n"),
            ("t.tsv", b"index\tname\nn/a\ta\n"),
            ("t.tsv", b"index\tname\n1\t\xff\n"),
            ("lut.txt", b"# nothing\n"),
            ("lut.txt", b"1\n"),
            ("lut.txt", b"one Left 0 0 0 0\n"),
        ],
    )
    def test_invalid_table_is_refused(self, tmp_path: Path, name: str, content: bytes) -> None:
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(DataError, match="cannot read the label table"):
            read_names(path)

    def test_missing_file_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(NoInputError, match="does not exist"):
            read_names(tmp_path / "t.tsv")


def test_freesurfer_label_names() -> None:
    names = freesurfer_names()
    assert len(names) == 2 * 19 + 14 + 4 * 36
    assert len(set(names.values())) == len(names)
    assert {names[number] for number in (1000, 2035, 3024, 4034)} == {
        "ctx-lh-unknown",
        "ctx-rh-insula",
        "wm-lh-precentral",
        "wm-rh-transversetemporal",
    }
    assert (names[16], names[54], names[253]) == ("Brain-Stem", "Right-Amygdala", "CC_Central")


class TestOnto:
    ATLAS = Atlas("parts", Volume(labels().astype(np.int32), np.eye(4)), {2: "left", 5: "right"})

    def test_atlas_on_same_grid_is_unchanged(self) -> None:
        found = atlas_onto(self.ATLAS, (6, 7, 8), np.eye(4))
        np.testing.assert_array_equal(found, labels())
        assert found.dtype == np.int32

    def test_finer_grid_repeats_voxels(self) -> None:
        affine = np.diag([0.5, 0.5, 0.5, 1.0])
        affine[:3, 3] = -0.25
        found = atlas_onto(self.ATLAS, (12, 14, 16), affine)
        expected = labels().repeat(2, 0).repeat(2, 1).repeat(2, 2)
        np.testing.assert_array_equal(found, expected)

    def test_transform_goes_from_the_grid_to_the_atlas(self) -> None:
        move = np.eye(4)
        move[0, 3] = 2
        found = atlas_onto(self.ATLAS, (6, 7, 8), np.eye(4), transform=move)
        np.testing.assert_array_equal(found[:4], labels()[2:])
        assert not found[4:].any()

    def test_large_labels_are_preserved(self) -> None:
        data = np.zeros((4, 4, 4), np.int32)
        data[1:3, 1:3, 1:3] = 2_000_000_011
        atlas = Atlas("large", Volume(data, np.eye(4)), {})
        affine = np.diag([0.5, 0.5, 0.5, 1.0])
        affine[:3, 3] = -0.25
        found = atlas_onto(atlas, (8, 8, 8), affine)
        assert np.unique(found).tolist() == [0, 2_000_000_011]


def test_embedded_atlas_splits_regions_into_left_and_right() -> None:
    atlas, template = embedded_atlas(), load_template()
    assert template.regions is not None
    np.testing.assert_array_equal((atlas.volume.data + 1) // 2, template.regions)
    assert list(atlas.names) == list(range(1, 9))
    assert atlas.names[3].startswith("left cortex")
    assert atlas.names[4].startswith("right cortex")
    # x = 0 mm is the plane 98
    assert (atlas.volume.data[:99] % 2)[template.regions[:99] > 0].all()
    assert not (atlas.volume.data[99:] % 2).any()


@pytest.mark.usefixtures("no_network")
class TestTemplateFlow:
    @staticmethod
    def fill(home: Path, *entities: str) -> Path:
        """Make a TemplateFlow folder of label images at 2 mm."""
        folder = home / "tpl-Made"
        folder.mkdir(parents=True, exist_ok=True)
        for one in entities:
            image = nib.Nifti1Image(labels(), np.diag([2.0, 2, 2, 1]))
            image.to_filename(folder / f"tpl-Made_res-01_{one}_dseg.nii.gz")
        return folder

    @pytest.mark.parametrize("entity", ["atlas", "seg"])
    @pytest.mark.parametrize("online", [False, True])
    def test_filled_folder_is_used(self, tmp_path: Path, entity: str, online: bool) -> None:
        folder = self.fill(tmp_path, f"{entity}-Parts", f"{entity}-Other")
        (folder / f"tpl-Made_{entity}-Parts_dseg.tsv").write_text(TABLE)
        atlas = read_atlas(find_label_image("Made", "Parts", home=tmp_path, online=online))
        assert (atlas.name, atlas.names) == ("Parts", {2: "left", 5: "right"})
        np.testing.assert_array_equal(atlas.volume.data, labels())
        assert sorted(path.name for path in tmp_path.iterdir()) == ["tpl-Made"]

    @pytest.mark.parametrize("desc", ["a", "b", "c"])
    def test_desc_selects_one_of_several_atlases(self, tmp_path: Path, desc: str) -> None:
        folder = self.fill(tmp_path, *(f"atlas-Parts_desc-{one}" for one in "abc"))
        path = find_label_image("Made", "Parts", desc=desc, home=tmp_path, online=False)
        assert path == folder / f"tpl-Made_res-01_atlas-Parts_desc-{desc}_dseg.nii.gz"

    def test_ambiguous_atlas_is_refused(self, tmp_path: Path) -> None:
        self.fill(tmp_path, "atlas-Parts_desc-a", "atlas-Parts_desc-b")
        with pytest.raises(NoInputError, match=r"desc-a_dseg.*desc-b_dseg"):
            find_label_image("Made", "Parts", home=tmp_path, online=False)

    @pytest.mark.parametrize(
        "query", [{"atlas": "None"}, {"resolution": 2}, {"desc": "z"}, {"name": "Other"}]
    )
    def test_missing_atlas_gives_prefill_hint(self, tmp_path: Path, query: dict[str, Any]) -> None:
        self.fill(tmp_path, "atlas-Parts")
        wanted: dict[str, Any] = {"name": "Made", "atlas": "Parts", **query}
        with pytest.raises(NoInputError) as caught:
            find_label_image(**wanted, home=tmp_path, online=False)
        assert "TEMPLATEFLOW_HOME" in caught.value.hint
        assert f"atlas='{wanted['atlas']}'" in caught.value.hint

    def test_empty_home_is_refused_and_stays_empty(self, tmp_path: Path) -> None:
        with pytest.raises(NoInputError, match="empty or missing"):
            find_label_image("Made", "Parts", home=tmp_path, online=False)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(("online", "kind"), [(False, NoInputError), (True, TemporaryError)])
    def test_empty_stub_without_network_is_refused(
        self, tmp_path: Path, online: bool, kind: type[Exception]
    ) -> None:
        folder = self.fill(tmp_path)
        (folder / "tpl-Made_res-01_atlas-Parts_dseg.nii.gz").touch()
        with pytest.raises(kind):
            find_label_image("Made", "Parts", home=tmp_path, online=online)
