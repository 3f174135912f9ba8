"""Give damaged files to all readers of user files, and count the outcomes.

usage: python benchmarks/fuzz_readers.py [--cases 10000] [--only N]

Every case is generated from its number alone, so that a failing one can be repeated with
``--only``. A reader may accept a file or raise an :class:`~bids_msseg.errors.MssegError`; any
other exception counts as escaped and is printed with the number of its case. The exit code is 1 if
any has escaped.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import os
import resource
import struct
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import nibabel as nib
import numpy as np

from bids_msseg import option_files
from bids_msseg.bids.given_masks import find_brain_mask
from bids_msseg.bids.image_selection import examine, is_fetched
from bids_msseg.bids.inheritance import SidecarReader
from bids_msseg.bids.query import find_visits
from bids_msseg.bids.record import read_records
from bids_msseg.calibration import read_calibration
from bids_msseg.config import RunConfig
from bids_msseg.errors import MssegError
from bids_msseg.imaging.conform import conform
from bids_msseg.models.checkpoint import check_cascade, load_cascade, save_cascade
from bids_msseg.models.lesion_anatomy import LesionAnatomyConfig, LesionAnatomyNet
from bids_msseg.models.lesion_refinement import LesionRefinementConfig, LesionRefinementNet
from bids_msseg.models.weights import CascadePoint, read_header
from bids_msseg.workflow.plugins import read_plugin

SHAPE: Final = (9, 8, 7)
UNUSUAL_BYTES: Final = (0, 1, 0x7F, 0x80, 0xFF, ord("["), ord("{"), ord('"'), ord("\n"), ord("9"))
UNUSUAL_FLOATS: Final = (0.0, -0.0, 1e-40, 1e38, -1.0, float("nan"), float("inf"), float("-inf"))
UNUSUAL_SHORTS: Final = (0, 1, -1, 2, 7, 8, 127, 128, 255, 512, 2048, 32767, -32768)
FLOATS_AT: Final = (*range(76, 124, 4), *range(256, 328, 4))
SHORTS_AT: Final = (*range(40, 56, 2), 68, 70, 72, 74, 252, 254)
CONFIG: Final = """\
bids_dir = "/bids"
output_dir = "/out"
levels = ["participant"]
[query]
participant_label = ["01"]
bids_filters = {flair = {run = 1}}
[processing]
threshold = 0.4
output_spaces = ["FLAIR", "MNI152NLin2009aSym:res-1"]
[performance]
nprocs = 2
"""
FILTER: Final = '{"flair": {"acquisition": "3D", "run": [1, null]}, "t1w": {"session": "*"}}'
PLUGIN: Final = "plugin: SLURM\nplugin_args: {sbatch_args: --mem=8G, n_procs: 2}\n"
RECORD: Final = json.dumps(
    {
        "participant": "01",
        "session": None,
        "status": "ok",
        "lesion_count": 3,
        "regions": {"cortex": [1.5, 2]},
        "contrasts": {"FLAIR": {"file": "a/b", "spacing_mm": [1, 1, 3]}},
        "load_interval_ml": [1, 0.5, 2],
    }
)


@dataclass
class Count:
    """What came of the cases.

    Attributes
    ----------
    ends : Counter
        By (kind of case, name of what was raised, or ``accepted``).
    escaped : list of (int, str)
        Number of the case and the traceback.
    """

    ends: Counter[tuple[str, str]] = field(default_factory=Counter)
    escaped: list[tuple[int, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Bench:
    """A work folder, and intact weights to damage."""

    folder: Path
    weights: bytes

    def file(self, name: str, content: bytes) -> Path:
        """Write a file into the folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Change, insert, remove, repeat or cut off some bytes."""
    work = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        position = int(rng.integers(0, len(work) + 1))
        length = int(rng.choice([1, 1, 2, 4, 16]))
        match int(rng.integers(0, 6)):
            case 0:
                work[position : position + length] = rng.bytes(length)
            case 1:
                work[position:position] = bytes([int(rng.choice(UNUSUAL_BYTES))]) * length
            case 2:
                del work[position : position + length]
            case 3:
                del work[position:]
            case 4 if position < len(work):
                work[position] ^= 1 << int(rng.integers(0, 8))
            case _:
                work[position:position] = work[position : position + length]
    return bytes(work)


def _nifti(rng: np.random.Generator) -> bytes:
    """Create an intact NIfTI-1 or NIfTI-2 file of random type and byte order."""
    dtype = np.dtype(str(rng.choice(["u1", "<i2", ">i2", "<f4", ">f4", "<f8", "<u4"])))
    kind = nib.Nifti2Image if rng.random() < 0.2 else nib.Nifti1Image
    data = rng.integers(0, 200, SHAPE).astype(dtype)
    header = kind.header_class(endianness=">" if dtype.byteorder == ">" else "<")
    image = kind(data, np.diag([1.5, 2, 3, 1]), header, dtype=dtype)
    image.set_qform(image.affine, 1)
    return bytes(image.to_bytes())


def _unusual_fields(content: bytes, rng: np.random.Generator) -> bytes:
    """Put unlikely numbers into fields of the header."""
    work = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        if rng.random() < 0.5:
            struct.pack_into(
                "<f", work, int(rng.choice(FLOATS_AT)), float(rng.choice(UNUSUAL_FLOATS))
            )
        else:
            struct.pack_into(
                "<h", work, int(rng.choice(SHORTS_AT)), int(rng.choice(UNUSUAL_SHORTS))
            )
    return bytes(work)


def _read_image(path: Path, bench: Bench) -> None:
    is_fetched(path)
    examine(path)
    masks = bench.file(f"brains/sub-01/anat/sub-01_desc-brain_mask{_ending(path)}", b"")
    masks.write_bytes(path.read_bytes())
    find_brain_mask(path, "01", None, {"brains": bench.folder / "brains"})
    masks.unlink()
    conform(path, bench.folder / "conformed.nii.gz", contrast="FLAIR")


def _ending(path: Path) -> str:
    return "".join(path.suffixes)


def fuzz_header(bench: Bench, rng: np.random.Generator) -> None:
    """Read an uncompressed image whose header was changed."""
    content = _nifti(rng)
    content = _unusual_fields(content, rng) if rng.random() < 0.7 else damaged(content, rng)
    _read_image(bench.file("image_FLAIR.nii", content), bench)


def fuzz_gzip(bench: Bench, rng: np.random.Generator) -> None:
    """Read a compressed image, damaged before or after it was compressed."""
    content = _nifti(rng)
    if rng.random() < 0.5:
        packed = gzip.compress(_unusual_fields(content, rng), 1, mtime=0)
    else:
        packed = damaged(gzip.compress(content, 1, mtime=0), rng)
    _read_image(bench.file("image_FLAIR.nii.gz", packed), bench)


def fuzz_weights(bench: Bench, rng: np.random.Generator) -> None:
    """Read damaged weights; the checksum has to detect changes of the tensors alone."""
    content = bench.weights
    cut = 8 + int.from_bytes(content[:8], "little") if rng.random() < 0.7 else len(content)
    path = bench.file("fuzz.safetensors", damaged(content[:cut], rng) + content[cut:])
    read_calibration(path, read_header(path).sha256)
    check_cascade(path)
    load_cascade(path)


def fuzz_text(bench: Bench, rng: np.random.Generator) -> None:
    """Read a configuration, filter, plugin, list, sidecar, record or calibration."""
    names = ("run.toml", "filter.json", "plugin.yml", "labels.tsv", "record.json")
    name = str(rng.choice(names))
    intact = {
        "run.toml": CONFIG,
        "filter.json": FILTER,
        "plugin.yml": PLUGIN,
        "record.json": RECORD,
    }
    content = damaged(intact.get(name, "participant_id\tage\nsub-01\t3\n").encode(), rng)
    path = bench.file(name, content)
    if name == "run.toml":
        RunConfig.from_toml(option_files.read_file(path, what="the configuration file"))
    elif name == "plugin.yml":
        read_plugin(path)
    elif name == "record.json":
        bench.file("out/logs/visits/sub-01.json", content)
        read_records(bench.folder / "out")
    else:
        option = "bids_filter_file" if name == "filter.json" else "participant_label"
        base = {"bids_dir": "/bids", "output_dir": "/out", "levels": "participant"}
        RunConfig.from_options({**base, option: str(path)})
    bench.file("site.calibration.json", content)
    read_calibration(bench.folder / "site.safetensors", "0")


def fuzz_tree(bench: Bench, rng: np.random.Generator) -> None:
    """Look for visits in a dataset whose names and small files were damaged."""
    names = ["sub-01/anat/sub-01_FLAIR.nii.gz", "sub-01/ses-1/anat/sub-01_ses-1_run-1_FLAIR.nii"]
    names += ["sub-02/anat/sub-02_T1w.nii.gz", "sub-02/anat/sub-02_part-mag_FLAIR.nii.gz"]
    with tempfile.TemporaryDirectory(dir=bench.folder) as top:
        root = Bench(Path(top), b"")
        for name in ("sub-03/anat/sub-03_FLAIR.nii.gz", *names):
            changed = damaged(name.encode(), rng) if rng.random() < 0.5 else name.encode()
            _plant(root, changed, rng)
        intact = b'{"Name": "x", "BIDSVersion": "1.10.1"}'
        for name in ("dataset_description.json", "FLAIR.json", "sub-01/anat/sub-01_FLAIR.json"):
            content = damaged(intact, rng) if rng.random() < 0.3 else intact
            # a file may lie where its folder would be
            with suppress(OSError):
                root.file(name, content)
        selection = find_visits(root.folder)
        for visit in selection.visits:
            SidecarReader(root.folder).read(visit.flair)


def _plant(root: Bench, name: bytes, rng: np.random.Generator) -> None:
    """Create a file, link, folder or FIFO of this name in the dataset, if possible."""
    path = Path(os.fsdecode(os.fsencode(root.folder) + b"/" + name.strip(b"/")))
    if b"\0" in name or b".." in name or not name.strip(b"/."):
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        match int(rng.integers(0, 8)):
            case 0:
                path.symlink_to(str(rng.choice(["gone", ".", "..", path.name])))
            case 1:
                path.mkdir()
            case 2:
                os.mkfifo(path)
            case _:
                path.write_bytes(rng.bytes(int(rng.integers(0, 400))))
    except OSError:
        return


KINDS: Final[Mapping[str, tuple[float, Callable[[Bench, np.random.Generator], None]]]] = {
    "header": (0.43, fuzz_header),
    "gzip": (0.25, fuzz_gzip),
    "weights": (0.10, fuzz_weights),
    "text": (0.20, fuzz_text),
    "tree": (0.02, fuzz_tree),
}


def fuzz(folder: Path, numbers: range) -> Count:
    """Run some cases.

    Parameters
    ----------
    folder : Path
        Empty folder for files.
    numbers : range
        Which cases.

    Returns
    -------
    Count
    """
    whole = folder / "whole.safetensors"
    first = LesionAnatomyNet(LesionAnatomyConfig((2, 3)))
    second = LesionRefinementNet(LesionRefinementConfig((2, 3, 4)))
    save_cascade(whole, [first], second, name="tiny", version="0", point=CascadePoint())
    bench = Bench(folder, whole.read_bytes())
    count = Count()
    for number in numbers:
        rng = np.random.default_rng(number)
        kind = str(rng.choice(list(KINDS), p=[share for share, _ in KINDS.values()]))
        try:
            KINDS[kind][1](bench, rng)
            end = "accepted"
        except MssegError as error:
            end = type(error).__name__
            if not (error.message and error.hint):
                count.escaped.append((number, f"{kind}: an error without words"))
        except Exception as error:  # noqa: BLE001 (what this looks for)
            end = type(error).__name__
            count.escaped.append((number, f"{kind}: {traceback.format_exc()}"))
        count.ends[kind, end] += 1
    return count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--only", type=int, help="run this one case")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    numbers = range(options.cases)
    if options.only is not None:
        numbers = range(options.only, options.only + 1)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        fuzz(Path(folder), range(20))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        count = fuzz(Path(folder), numbers)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print("| kind | end | cases |\n|---|---|---|")
    for (kind, end), cases in sorted(count.ends.items()):
        print(f"| {kind} | {end} | {cases} |")
    print(f"\n{len(numbers)} cases, {len(count.escaped)} escaped")
    print(
        f"peak memory {after / 1024:.0f} MB, {(after - before) / 1024:.0f} MB more than at start"
    )
    for number, text in count.escaped[:20]:
        print(f"\ncase {number}\n{text}", file=sys.stderr)
    return 1 if count.escaped else 0


if __name__ == "__main__":
    sys.exit(main())
