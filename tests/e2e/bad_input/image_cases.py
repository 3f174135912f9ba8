"""FLAIR files that cannot be used: the visit fails, with its reason and hint."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np

from .images import (
    AFFINE,
    SHAPE,
    bomb,
    field,
    filled,
    header,
    nifti,
    sform,
    typed,
    values,
    zipped,
)
from .place import FLAIR, Case, Place

AGAIN = "copy or convert it again"
DICOM = "convert it again"
RENAME = "rename it"
WHOLE = "use the whole 3-D series"
ONE_NUMBER = "use the magnitude image, with one number per voxel"
HEADER = "check the header"


def _file(
    name: str, make: Callable[[], bytes], says: str, hint: str, *, plain: bool = False
) -> Case:
    """Put these bytes in the FLAIR's place."""

    def spoil(place: Place) -> None:
        if plain:
            place.remove()
        place.put(FLAIR.removesuffix(".gz") if plain else FLAIR, make())

    return Case(name, spoil, 65, says, hint, visit=True)


def _image(name: str, make: Callable[[], bytes], says: str, hint: str) -> Case:
    """Put this uncompressed image in the FLAIR's place, compressed."""
    return _file(name, lambda: zipped(make()), says, hint)


def _cut(share: float) -> Callable[[], bytes]:
    def make() -> bytes:
        content = zipped(nifti(np.random.default_rng(0).integers(0, 999, SHAPE, np.int16)))
        return content[: int(len(content) * share)]

    return make


def _changed(where: int, by: bytes) -> Callable[[], bytes]:
    """Overwrite bytes of the compressed file; a negative place counts from its end."""

    def make() -> bytes:
        content = bytearray(zipped(nifti()))
        start = where % len(content)
        content[start : start + len(by)] = by
        return bytes(content)

    return make


def _zip() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("sub-01_FLAIR.nii", nifti())
    return content.getvalue()


def _mgh() -> bytes:
    content = io.BytesIO()
    image = nib.MGHImage(values().astype(np.float32), AFFINE)
    image.file_map["image"].fileobj = content
    image.to_file_map()
    return content.getvalue()


def _analyze() -> bytes:
    start = bytes(nib.AnalyzeHeader().binaryblock)
    return start + bytes(4) + values().tobytes()


def _rgb(channels: int) -> Callable[[], bytes]:
    names = "RGBA"[:channels]
    return lambda: nifti(np.zeros(SHAPE, [(name, "u1") for name in names]))


def _shape(*shape: int) -> Callable[[], bytes]:
    return lambda: nifti(np.ones(shape, np.int16))


def _dims(*dim: int) -> Callable[[], bytes]:
    return header(dim=(*dim, *(1 for _ in range(8 - len(dim)))))


def _promise(extent: int, content: bytes) -> Callable[[], bytes]:
    """Declare many voxels of one byte in a header before some compressed content."""

    def make() -> bytes:
        start = _dims(3, extent, extent, extent)()[:352]
        start = field(field(start, "datatype", 2), "bitpix", 8)
        return zipped(start) + content

    return make


def _two_forms(quatern: tuple[float, ...], offset: tuple[float, ...]) -> Callable[[], bytes]:
    return header(quatern=quatern, qoffset=offset)


_LEAN = [[2, 0.4, 0, 0], [0, 2, 0, 0], [0, 0, 3, 0]]
_FLAT = [[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 0]]
_PARALLEL = [[2, 2, 0, 0], [0, 0, 0, 0], [0, 0, 3, 0]]
_FAR = [[2, 0, 0, 1e7], [0, 2, 0, 0], [0, 0, 3, 0]]


def _scaled(edge: float) -> Callable[[], bytes]:
    return sform([[edge, 0, 0, 0], [0, edge, 0, 0], [0, 0, edge, 0]])


def _number_in_sform(number: float) -> Callable[[], bytes]:
    return sform([[number, 0, 0, 0], [0, 2, 0, 0], [0, 0, 3, 0]])


def _set(number: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda data: np.full_like(data, number)


def _constant_beside_nan(data: np.ndarray) -> np.ndarray:
    return np.where(data > 300, np.float32(np.nan), np.float32(7))


GZIP = [
    _file("gzip cut off in the header", _cut(0.05), "damaged or not NIfTI", AGAIN),
    _file("gzip cut off in the middle", _cut(0.5), "damaged or not NIfTI", AGAIN),
    _file("gzip cut off before its last byte", _cut(0.9995), "damaged or not NIfTI", AGAIN),
    _file("gzip with a wrong checksum", _changed(-8, b"\1\2\3\4"), "CRC check failed", AGAIN),
    _file("gzip with a wrong length", _changed(-4, b"\xff" * 4), "length", AGAIN),
    _file("gzip damaged in the middle", _changed(400, b"\xff" * 40), "damaged", AGAIN),
    _file("gzip of an unknown method", _changed(2, b"\x07"), "compression method", AGAIN),
    _file("gzip of nothing", lambda: zipped(b""), "a complete header", AGAIN),
    _file("gzip of gzip", lambda: zipped(zipped(nifti())), "a complete header", AGAIN),
    _file("gzip start alone", lambda: b"\x1f\x8b", "damaged or not NIfTI", AGAIN),
    _file("0 bytes", lambda: b"", "the file is empty", AGAIN),
    _file("0 bytes, not compressed", lambda: b"", "the file is empty", AGAIN, plain=True),
    _file("not compressed but named .gz", nifti, "not compressed, contrary to its name", RENAME),
    _file(
        "compressed but not named .gz",
        lambda: zipped(nifti()),
        "is compressed, contrary to its name",
        RENAME,
        plain=True,
    ),
    _file("a zip archive", _zip, "not compressed, contrary to its name", RENAME),
    _file("text", lambda: b"see the other disk\n", "not compressed, contrary to its name", RENAME),
    _file(
        "bomb that promises what it holds",
        _promise(1000, bomb(960)),
        "a thousandth|times as",
        AGAIN,
    ),
    _file("promise of a gigabyte in 400 bytes", _promise(1000, b""), "bytes of|times as", AGAIN),
    _file("garbage after the image", lambda: zipped(nifti()) + b"\1\2\3", "damaged", AGAIN),
]

FORMATS = [
    _image("text, compressed", lambda: b"hello" * 99, "a complete header", AGAIN),
    _file("text, not compressed", lambda: b"hello" * 99, "a complete header", AGAIN, plain=True),
    _image("DICOM", lambda: bytes(128) + b"DICM" + bytes(900), "a complete header", AGAIN),
    _image("MGH", _mgh, "a complete header", AGAIN),
    _image("Analyze 7.5", _analyze, "signature is missing", AGAIN),
    _image("magic of a .hdr/.img pair", header(magic=b"ni1\0"), "signature is missing", AGAIN),
    _image("magic of zeros", header(magic=bytes(4)), "signature is missing", AGAIN),
    _image("wrong header size", header(sizeof_hdr=352), "a complete header", AGAIN),
    _image("NIfTI-2 with a wrong magic", lambda: _nifti2_magic(), "signature", AGAIN),
    _image("header alone", lambda: nifti()[:352], "0 of 1920 bytes", AGAIN),
    _image("header cut off", lambda: nifti()[:100], "a complete header", AGAIN),
    _file("voxels cut off", lambda: nifti()[:-7], "1913 of 1920 bytes", AGAIN, plain=True),
    _image("voxels at byte 0", header(vox_offset=0), "data offset 0", AGAIN),
    _image("voxels before the header", header(vox_offset=-9.0), "offset -9", AGAIN),
    _image("voxels beyond the file", header(vox_offset=99999.0), "0 of 1920 bytes", AGAIN),
    _image("voxels at a gigabyte", header(vox_offset=1e9), "data offset 1000000000", AGAIN),
    _image("voxels at NaN", header(vox_offset=float("nan")), "data offset nan", AGAIN),
]


def _nifti2_magic() -> bytes:
    content = bytearray(nifti(kind=nib.Nifti2Image))
    content[4:8] = b"n+1\0"
    return bytes(content)


GRIDS = [
    _image("1-D", _shape(200), "not a volume", WHOLE),
    _image("2-D", _shape(12, 10), "not a volume", WHOLE),
    _image("one slice", _shape(12, 10, 1), "not a volume", WHOLE),
    _image("four slices", _shape(12, 10, 4), "not a volume", WHOLE),
    _image("4-D", _shape(12, 10, 8, 2), "has 4 dimensions", "keep one 3-D volume"),
    _image("5-D vectors", _shape(6, 6, 6, 1, 3), "has 5 dimensions", "keep one 3-D volume"),
    _image("no dimension", _dims(0), "damaged|not a volume|declares", ""),
    _image("nine dimensions", _dims(9, 12, 10, 8), "damaged|not a volume|declares", ""),
    _image("an axis of length 0", _dims(3, 12, 0, 8), "declares 12 × 0 × 8", HEADER),
    _image("an axis of negative length", _dims(3, 12, -10, 8), "declares", HEADER),
    _image("an axis of 5000 voxels", _dims(3, 5000, 10, 8), "declares 5000", HEADER),
    _image("8 gigavoxels", _dims(3, 2000, 2000, 2000), "declares 2000", HEADER),
    _image("complex64", typed(np.complex64), "contains complex numbers", ONE_NUMBER),
    _image("complex128", typed(np.complex128), "contains complex numbers", ONE_NUMBER),
    _image("RGB", _rgb(3), "contains colours", ONE_NUMBER),
    _image("RGBA", _rgb(4), "contains colours", ONE_NUMBER),
    _image("bits", header(datatype=1), "colours or bits|damaged", ""),
    _image("unknown data type", header(datatype=9999), "damaged", AGAIN),
    _image("no data type", header(datatype=0), "damaged|colours or bits", ""),
]

VALUES = [
    _image("all zero", lambda: nifti(np.zeros(SHAPE, np.int16)), "the same value", DICOM),
    _image("constant", lambda: nifti(np.full(SHAPE, 7, np.int16)), "the same value", DICOM),
    _image("all NaN", filled(_set(np.nan)), "no finite value", DICOM),
    _image("all infinite", filled(_set(np.inf)), "no finite value", DICOM),
    _image("constant beside NaN", filled(_constant_beside_nan), "the same value", DICOM),
    _image("scl_slope that overflows", header(scl_slope=3e38), "no finite|same value", DICOM),
    _image("scl_inter NaN", header(scl_slope=1.0, scl_inter=float("nan")), "damaged", AGAIN),
    _image("scl_inter infinite", header(scl_slope=1.0, scl_inter=float("inf")), "damaged", AGAIN),
]

PLACES = [
    _image("voxels of 0.01 mm", _scaled(0.01), "has voxels of 0.01", "0.2-15.0 mm"),
    _image("voxels of 50 mm", _scaled(50), "has voxels of 50", "0.2-15.0 mm"),
    _image("voxels in micrometres", _scaled(1000), "has voxels of 1e", "unit is mm"),
    _image("voxels in metres", _scaled(0.001), "has voxels of 0.001", "unit is mm"),
    _image("sform without third axis", sform(_FLAT), "cannot be inverted", DICOM),
    _image("sform with parallel axes", sform(_PARALLEL), "not perpendicular", "resample"),
    _image("sheared sform", sform(_LEAN), "not perpendicular", "resample"),
    _image("sform of NaN", _number_in_sform(float("nan")), "cannot be inverted|damaged", ""),
    _image("sform of infinity", _number_in_sform(float("inf")), "cannot be inverted|damaged", ""),
    _image("sform of zeros", _scaled(0), "cannot be inverted|damaged", ""),
    _image("ten kilometres off", sform(_FAR), "more than 10 m", "correct the origin"),
    _image(
        "qform moved by 20 mm", _two_forms((0, 0, 0), (9, -9, -12)), "differ by 20", "fslorient"
    ),
    _image(
        "qform turned the other way round",
        _two_forms((0, 0, 1), (-11, -9, -12)),
        "two orientations",
        "find out which is right",
    ),
    _image("quaternion beyond 1", header(quatern=(5.0, 5.0, 5.0), sform_code=0), "", ""),
    _image("quaternion of NaN", header(quatern=(float("nan"), 0, 0), sform_code=0), "", ""),
    _image(
        "qform with voxels of 0 mm",
        header(pixdim=(1, 0, 2, 3, 0, 0, 0, 0), sform_code=0),
        "voxel size of 0 mm",
        AGAIN,
    ),
    _image(
        "qform with voxels of NaN",
        header(pixdim=(1, float("nan"), 2, 3, 0, 0, 0, 0), sform_code=0),
        "damaged|cannot be inverted",
        "",
    ),
    _image(
        "qoffset of NaN",
        header(qoffset=(float("nan"), 0, 0), sform_code=0),
        "damaged|cannot be inverted",
        "",
    ),
]


def _instead(
    name: str, make: Callable[[Path], object], code: int, says: str, hint: str, *, visit: bool
) -> Case:
    """Replace the FLAIR by a link, a folder, a pipe or a pointer file."""

    def spoil(place: Place) -> None:
        make(place.remove())

    return Case(name, spoil, code, says, hint, visit=visit)


def _unreadable(place: Place) -> None:
    (place.bids / FLAIR).chmod(0)
    place.unprivileged = True


FILES = [
    _instead(
        "link to nothing",
        lambda p: p.symlink_to("gone"),
        66,
        "not fetched",
        "datalad get",
        visit=False,
    ),
    _instead("link to itself", lambda p: p.symlink_to(p.name), 66, "not fetched", "", visit=False),
    _instead(
        "annexed and not fetched",
        lambda p: p.symlink_to("../../.git/annex/objects/X/MD5E-s9--0.nii.gz"),
        66,
        "not fetched",
        "datalad get sub-01/anat/sub-01_FLAIR.nii.gz",
        visit=False,
    ),
    _instead(
        "annex pointer file",
        lambda p: p.write_bytes(b"/annex/objects/MD5E-s9--0.nii.gz\n"),
        66,
        "not fetched",
        "datalad get",
        visit=False,
    ),
    _instead(
        "git-lfs pointer file",
        lambda p: p.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        66,
        "not fetched",
        "",
        visit=True,
    ),
    _instead(
        "folder of that name", lambda p: p.mkdir(), 66, "no FLAIR", "add a FLAIR", visit=False
    ),
    _instead("pipe of that name", os.mkfifo, 66, "not a regular file", "NIfTI", visit=False),
    Case("file without permission", _unreadable, 66, "no permission to read", "ask the owner"),
]

IMAGE_CASES = [*GZIP, *FORMATS, *GRIDS, *VALUES, *PLACES, *FILES]
