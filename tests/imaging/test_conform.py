"""Valid NIfTI files become 3-D float32 in canonical axes; others are refused with a hint."""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bids_msseg.errors import DataError, NoInputError
from bids_msseg.imaging.conform import canonical, conform
from bids_msseg.imaging.header import check_header
from bids_msseg.imaging.volume import Volume, load_volume

MakeNifti = Callable[..., Path]
ORIENTATIONS = [
    "".join(letters)
    for order in itertools.permutations(("LR", "PA", "IS"))
    for letters in itertools.product(*order)
]


def patch(path: Path, place: int, content: bytes) -> None:
    """Overwrite bytes of a file."""
    raw = bytearray(path.read_bytes())
    raw[place : place + len(content)] = content
    path.write_bytes(bytes(raw))


def conformed(path: Path) -> tuple[Volume, tuple[str, ...]]:
    result = conform(path, path.parent / "out" / "conformed.nii.gz", contrast="FLAIR")
    return result.volume, result.notes


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_data_type_and_byte_order_is_read(
    make_nifti: MakeNifti, dtype: str, order: str
) -> None:
    data = np.arange(720).reshape(8, 9, 10) % 120
    image = nib.Nifti1Image(data.astype(dtype), np.eye(4), dtype=np.dtype(dtype))
    header = image.header if order == "<" else image.header.as_byteswapped(">")
    path = make_nifti()
    image.__class__(data.astype(dtype), np.eye(4), header).to_filename(path)
    assert check_header(path).dtype == np.dtype(order + dtype)
    volume, notes = conformed(path)
    assert volume.data.dtype == np.float32
    np.testing.assert_array_equal(volume.data, data)
    assert notes == ()


@pytest.mark.parametrize("name", ["image.nii", "image.nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_nifti1_and_nifti2_with_both_extensions_are_read(
    make_nifti: MakeNifti, name: str, kind: type
) -> None:
    path = make_nifti(name, kind=kind)
    np.testing.assert_array_equal(conformed(path)[0].data, nib.load(path).get_fdata())


@pytest.mark.parametrize(("slope", "inter"), [(0.5, -10.0), (3.0, 0.0), (-1.0, 100.0)])
def test_scaling_is_applied(make_nifti: MakeNifti, slope: float, inter: float) -> None:
    data = np.arange(720, dtype=np.int16).reshape(8, 9, 10)
    image = nib.Nifti1Image(data, np.eye(4))
    image.header.set_slope_inter(slope, inter)
    path = make_nifti()
    path.write_bytes(gzip.compress(image.to_bytes()))
    stored = np.frombuffer(gzip.decompress(path.read_bytes())[352:], np.int16)
    expected = stored.reshape(data.shape, order="F") * slope + inter
    np.testing.assert_allclose(conformed(path)[0].data, expected, rtol=1e-6)


def test_large_integers_keep_double_precision_until_scaled(make_nifti: MakeNifti) -> None:
    data = 2_000_000_000 + np.arange(720, dtype=np.int32).reshape(8, 9, 10)
    path = make_nifti("image.nii", data=data)
    patch(path, 112, np.array([1.0, -2e9], "<f4").tobytes())
    np.testing.assert_array_equal(conformed(path)[0].data, data - 2_000_000_000)


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_every_orientation_preserves_voxel_positions(make_nifti: MakeNifti, codes: str) -> None:
    data = np.random.default_rng(1).integers(0, 999, (7, 8, 9)).astype(np.int16)
    tilted = nib.affines.from_matvec(
        nib.eulerangles.euler2mat(0.1, -0.05, 0.08) @ np.diag([0.9, 1.1, 3.0]), (12, -30, 5)
    )
    start = nib.Nifti1Image(data, tilted)
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(tilted), nib.orientations.axcodes2ornt(codes)
    )
    stored = start.as_reoriented(turn)
    path = make_nifti(data=np.asarray(stored.dataobj), affine=stored.affine)
    assert "".join(nib.aff2axcodes(check_header(path).affine)) == codes
    volume, _ = conformed(path)
    np.testing.assert_array_equal(volume.data, data)
    np.testing.assert_allclose(volume.affine, tilted, atol=1e-4)


@settings(max_examples=50, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 5)] * 3),
    order=st.permutations([0, 1, 2]),
    signs=st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3),
    edges=st.tuples(*[st.floats(0.3, 8.0)] * 3),
)
def test_canonical_preserves_voxel_positions(
    shape: tuple[int, int, int],
    order: list[int],
    signs: tuple[float, ...],
    edges: tuple[float, ...],
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[order] * signs * edges
    affine[:3, 3] = (3, -4, 5)
    start = Volume(np.arange(float(np.prod(shape))).reshape(shape), affine)
    end = canonical(start)
    assert nib.aff2axcodes(end.affine) == ("R", "A", "S")
    assert _by_position(end) == _by_position(start)


def _by_position(volume: Volume) -> dict[tuple[float, ...], float]:
    index = np.argwhere(np.ones(volume.shape, bool))
    places = np.round(index @ volume.affine[:3, :3].T + volume.affine[:3, 3], 5) + 0.0
    return dict(zip(map(tuple, places), volume.data.ravel(), strict=True))


def test_written_file_matches_returned_volume(make_nifti: MakeNifti) -> None:
    path = make_nifti(affine=np.diag([-0.7, 0.7, 3.0, 1.0]))
    target = path.parent / "deep" / "conformed.nii.gz"
    volume = conform(path, target, contrast="T1w").volume
    again = load_volume(target)
    np.testing.assert_array_equal(again.data, volume.data)
    np.testing.assert_allclose(again.affine, volume.affine, atol=1e-5)
    header = nib.load(target).header
    assert header.get_data_dtype() == np.float32
    assert (int(header["qform_code"]), int(header["sform_code"])) == (1, 1)
    assert [p.name for p in target.parent.iterdir()] == ["conformed.nii.gz"]


def test_same_input_gives_the_same_bytes(make_nifti: MakeNifti, tmp_path: Path) -> None:
    path = make_nifti()
    for name in ("a.nii.gz", "b.nii.gz"):
        conform(path, tmp_path / name, contrast="FLAIR")
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


@pytest.mark.parametrize("extra", [(1,), (1, 1)])
def test_trailing_axes_of_one_are_dropped_and_noted(
    make_nifti: MakeNifti, extra: tuple[int, ...]
) -> None:
    data = np.arange(720, dtype=np.int16).reshape(8, 9, 10, *extra)
    volume, notes = conformed(make_nifti(data=data))
    np.testing.assert_array_equal(volume.data, data.reshape(8, 9, 10))
    assert notes == (f"stored with {3 + len(extra)} axes; axes of length one were dropped",)


def test_nonfinite_voxels_are_set_to_zero_and_noted(make_nifti: MakeNifti) -> None:
    data = np.ones((10, 10, 10), np.float32)
    data[0, 0, 0], data[1, 1, 1], data[2, 2, 2] = np.nan, np.inf, 5
    volume, notes = conformed(make_nifti(data=data))
    assert (volume.data[0, 0, 0], volume.data[1, 1, 1], volume.data[2, 2, 2]) == (0, 0, 5)
    assert notes == ("2 voxels (0.20%) were not finite and were set to 0",)


def test_qform_alone_or_sform_alone_is_accepted(make_nifti: MakeNifti) -> None:
    for codes in ((1, 0), (0, 2)):
        assert conformed(make_nifti(affine=np.diag([1.0, 2, 3, 1]), codes=codes))[1] == ()


def test_image_without_qform_and_sform_is_noted(make_nifti: MakeNifti) -> None:
    path = make_nifti(affine=np.diag([1.0, 2, 3, 1]), codes=(0, 0))
    volume, notes = conformed(path)
    np.testing.assert_allclose(volume.spacing, (1, 2, 3))
    assert len(notes) == 1
    assert "LEFT AND RIGHT CANNOT BE VERIFIED" in notes[0]


@pytest.mark.parametrize(("shift", "accepted"), [(0.9, True), (1.1, False)])
def test_qform_and_sform_may_differ_by_one_mm(
    make_nifti: MakeNifti, shift: float, accepted: bool
) -> None:
    path = make_nifti("image.nii", qoffset_x=shift)
    if accepted:
        assert conformed(path)[1] == ()
        return
    with pytest.raises(DataError, match=r"differ by 1\.1 mm") as caught:
        conformed(path)
    assert "fslorient" in caught.value.hint


def test_mirrored_qform_is_refused(make_nifti: MakeNifti) -> None:
    image = nib.load(make_nifti("image.nii"))
    image.set_qform(np.diag([-1.0, 1.5, 2.0, 1.0]), 1)
    path = make_nifti("other.nii")
    image.to_filename(path)
    with pytest.raises(DataError, match="qform and sform"):
        check_header(path)


def test_voxel_sizes_that_contradict_the_sform_are_noted(make_nifti: MakeNifti) -> None:
    path = make_nifti("image.nii", codes=(0, 1), pixdim=[1, 3, 3, 3, 1, 1, 1, 1])
    volume, notes = conformed(path)
    np.testing.assert_allclose(volume.spacing, (1, 1.5, 2))
    assert notes == ("pixdim contradicts the sform; the sform's voxel sizes were used",)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((8, 9), "not a volume"),
        ((8, 9, 1), "not a volume"),
        ((8, 9, 4), "not a volume"),
        ((8, 9, 10, 2), "4 dimensions"),
        ((8, 9, 10, 1, 3), "5 dimensions"),
    ],
)
def test_shapes_other_than_3d_are_refused(
    make_nifti: MakeNifti, shape: tuple[int, ...], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        conformed(make_nifti(data=np.zeros(shape, np.int16)))


@pytest.mark.parametrize("dtype", [np.complex64, [("R", "u1"), ("G", "u1"), ("B", "u1")]])
def test_complex_and_rgb_images_are_refused(make_nifti: MakeNifti, dtype: object) -> None:
    with pytest.raises(DataError, match=r"complex|colours"):
        conformed(make_nifti(data=np.zeros((8, 9, 10), dtype)))


@pytest.mark.parametrize("value", [0.0, 7.0, np.nan, np.inf])
def test_constant_or_nonfinite_image_is_refused(make_nifti: MakeNifti, value: float) -> None:
    with pytest.raises(DataError, match=r"no finite value|the same value everywhere"):
        conformed(make_nifti(data=np.full((8, 9, 10), value, np.float32)))


@pytest.mark.parametrize(
    ("affine", "words"),
    [
        (np.diag([1.0, 1, 0, 1]), "cannot be inverted"),
        (np.diag([1.0, np.nan, 1, 1]), "cannot be inverted"),
        (np.eye(4) + np.diag([1e5], k=3), "more than 10 m"),
        (np.diag([0.1, 1, 1, 1]), "voxels of 0.1 × 1 × 1 mm"),
        (np.diag([1.0, 1, 16, 1]), "voxels of 1 × 1 × 16 mm"),
        (np.eye(4) + 0.02 * np.eye(4, k=1) * [[1], [0], [0], [0]], "perpendicular"),
        ([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], "perpendicular"),
    ],
)
def test_invalid_affines_are_refused(make_nifti: MakeNifti, affine: object, words: str) -> None:
    path = make_nifti("image.nii", codes=(0, 1))
    patch(path, 280, np.asarray(affine, "<f4")[:3].tobytes())
    with pytest.raises(DataError, match=words):
        check_header(path)


def test_shear_within_tolerance_is_accepted(make_nifti: MakeNifti) -> None:
    affine = np.eye(4)
    affine[0, 1] = 0.009
    assert conformed(make_nifti(affine=affine, codes=(0, 1)))[1] == ()


def test_voxel_sizes_at_limits_are_accepted(make_nifti: MakeNifti) -> None:
    for edge in (0.2, 15.0):
        assert check_header(make_nifti(affine=np.diag([edge] * 3 + [1]))).shape == (8, 9, 10)


@pytest.mark.parametrize("dim", [(2049, 9, 10), (1001, 1001, 1001), (8, -9, 10)])
def test_absurd_sizes_are_refused_before_reading(
    make_nifti: MakeNifti, dim: tuple[int, int, int]
) -> None:
    path = make_nifti("image.nii")
    patch(path, 42, np.array(dim, "<i2").tobytes())
    path.write_bytes(path.read_bytes()[:352])
    with pytest.raises(DataError, match="declares"):
        conformed(path)


def test_surplus_data_in_gzip_file_is_ignored(make_nifti: MakeNifti) -> None:
    path = make_nifti()
    expected = nib.load(path).get_fdata()
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(50_000_000)))
    np.testing.assert_array_equal(conformed(path)[0].data, expected)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
@pytest.mark.parametrize("name", ["image.nii", "image.nii.gz"])
def test_truncated_files_are_refused(make_nifti: MakeNifti, name: str, share: float) -> None:
    path = make_nifti(name)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)])
    with pytest.raises(DataError, match="damaged"):
        conformed(path)


def test_wrong_gzip_checksum_is_refused(make_nifti: MakeNifti) -> None:
    path = make_nifti()
    raw = bytearray(path.read_bytes())
    raw[-6] ^= 0x10  # in the checksum, so that the stream itself still unpacks
    path.write_bytes(bytes(raw))
    with pytest.raises(DataError, match="CRC"):
        conformed(path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.nii.gz", b"", "empty"),
        ("a.nii.gz", b"not compressed at all" * 50, "not compressed"),
        ("a.nii", gzip.compress(b"0" * 500, mtime=0), "compressed, contrary to its name"),
        ("a.nii", b"plain text" * 100, "not NIfTI"),
        ("a.nii", b"\x5c\x01\x00\x00" + bytes(600), "signature"),
        ("a.mgz", b"whatever", "is not named"),
    ],
)
def test_files_that_are_not_nifti_are_refused(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=words):
        conformed(path)


@pytest.mark.parametrize(
    ("place", "content"),
    [(40, b"\xff\x7f"), (70, b"\xff\x7f"), (108, b"\xff\x7f\xff\x7f"), (108, bytes(4))],
    ids=["dim", "datatype", "offset not a number", "offset 0"],
)
def test_invalid_header_fields_are_a_user_error(
    make_nifti: MakeNifti, place: int, content: bytes
) -> None:
    path = make_nifti("image.nii")
    patch(path, place, content)
    with pytest.raises(DataError):
        conformed(path)


@settings(max_examples=100, deadline=None)
@given(places=st.dictionaries(st.integers(0, 351), st.integers(0, 255), min_size=1, max_size=6))
def test_random_header_bytes_raise_only_data_error(
    tmp_path_factory: pytest.TempPathFactory, places: dict[int, int]
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "image.nii"
    data = np.arange(720, dtype=np.int16).reshape(8, 9, 10)
    nib.Nifti1Image(data, np.eye(4)).to_filename(path)
    for place, value in places.items():
        patch(path, place, bytes([value]))
    with suppress(DataError):
        assert np.isfinite(conformed(path)[0].data).all()


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match="does not exist"):
        check_header(tmp_path / "none.nii.gz")


@pytest.mark.parametrize(
    "content", [None, b"/annex/objects/SHA256E-s1--0.nii.gz\n", b"version https://git-lfs.x\n"]
)
def test_unfetched_content_gives_datalad_hint(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "image.nii.gz"
    if content is None:
        path.symlink_to(tmp_path / ".git" / "annex" / "gone.nii.gz")
    else:
        path.write_bytes(content)
    with pytest.raises(NoInputError, match="not fetched") as caught:
        check_header(path)
    assert caught.value.hint == f"datalad get {path}"


def test_folder_named_like_an_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "image.nii.gz").mkdir()
    with pytest.raises(DataError, match="folder"):
        check_header(tmp_path / "image.nii.gz")


def test_failed_conform_leaves_no_file(make_nifti: MakeNifti, tmp_path: Path) -> None:
    path = make_nifti(data=np.zeros((8, 9, 10), np.int16))
    with pytest.raises(DataError, match="FLAIR"):
        conform(path, tmp_path / "out.nii.gz", contrast="FLAIR")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["image.nii.gz"]


@pytest.mark.realdata
def test_real_heads_pass_without_a_note(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "raw-heads" / "sub-12" / "ses-1" / "anat" / "sub-12_ses-1_T1w.nii.gz"
    result = conform(path, tmp_path / "t1w.nii.gz", contrast="T1w")
    expected = nib.as_closest_canonical(nib.load(path))
    np.testing.assert_array_equal(result.volume.data, expected.get_fdata(dtype=np.float32))
    np.testing.assert_allclose(result.volume.affine, expected.affine, atol=1e-4)
    assert result.notes == ()
