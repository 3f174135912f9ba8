"""Datasets, folders and selections that are refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable

from .place import FLAIR, Case, Place

TOP = "top folder of a BIDS dataset"
NO_FLAIR = "add a FLAIR, or leave sub-01 out"
SPELLING = "check the spelling"
ELSEWHERE = "derivatives/bids_msseg|another folder|empty folder"
DESCRIPTION = "dataset_description.json"


def _described(content: bytes) -> Callable[[Place], object]:
    return lambda place: place.put(DESCRIPTION, content)


def _no_description(place: Place) -> None:
    place.remove(DESCRIPTION)


def _description_is_folder(place: Place) -> None:
    place.remove(DESCRIPTION).mkdir()


def _description_is_broken_link(place: Place) -> None:
    place.remove(DESCRIPTION).symlink_to("gone")


def _description_is_a_pipe(place: Place) -> None:
    os.mkfifo(place.remove(DESCRIPTION))


def _bids(make: Callable[[Place], object]) -> Callable[[Place], object]:
    """Name another dataset."""

    def spoil(place: Place) -> None:
        place.positional[0] = str(make(place))

    return spoil


def _loop(place: Place) -> object:
    path = place.root / "loop"
    path.symlink_to("loop")
    return path


def _renamed(*names: str) -> Callable[[Place], object]:
    """Move the FLAIR to these names."""

    def spoil(place: Place) -> None:
        content = (place.bids / FLAIR).read_bytes()
        shutil.rmtree(place.bids / "sub-01")
        for name in names:
            place.put(name, content)

    return spoil


def _empty_visit(place: Place) -> None:
    shutil.rmtree(place.bids / "sub-01/anat")


def _remove_participants(place: Place) -> None:
    shutil.rmtree(place.bids / "sub-01")


def _participant_is_a_file(place: Place) -> None:
    _remove_participants(place)
    place.put("sub-01", b"")


def _anat_loop(place: Place) -> None:
    shutil.rmtree(place.bids / "sub-01/anat")
    (place.bids / "sub-01/anat").symlink_to(".")


def _participant_loop(place: Place) -> None:
    _remove_participants(place)
    (place.bids / "sub-01").symlink_to("sub-01")


def _session_loop(place: Place) -> None:
    _empty_visit(place)
    (place.bids / "sub-01/ses-1").symlink_to("..")


def _option(*words: object) -> Callable[[Place], object]:
    return lambda place: place.option(*words)


def _listed(content: bytes) -> Callable[[Place], object]:
    return lambda p: p.option("--participant-label", p.beside("list.tsv", content))


def _all_runs_are_bad(place: Place) -> None:
    place.remove()
    for run in (1, 2, 3):
        place.put(f"sub-01/anat/sub-01_run-{run}_FLAIR.nii.gz", b"junk")


def _closed_folder(name: str) -> Callable[[Place], object]:
    def spoil(place: Place) -> None:
        (place.bids / "sub-01" / name).chmod(0)
        place.unprivileged = True

    return spoil


DESCRIPTIONS = [
    Case("no dataset_description.json", _no_description, 16, "is missing", TOP),
    Case("dataset_description.json is empty", _described(b""), 16, "not readable JSON", TOP),
    Case("dataset_description.json is cut off", _described(b'{"Na'), 16, "readable JSON", TOP),
    Case("dataset_description.json is a list", _described(b"[]"), 16, "JSON object", TOP),
    Case("dataset_description.json is UTF-16", _described("{}".encode("utf-16")), 16, "JSON", TOP),
    Case("dataset_description.json is binary", _described(os.urandom(99)), 16, "JSON", TOP),
    Case("dataset_description.json is a folder", _description_is_folder, 16, "JSON", TOP),
    Case(
        "dataset_description.json is a broken link", _description_is_broken_link, 16, "link", TOP
    ),
    Case("dataset_description.json is a pipe", _description_is_a_pipe, 16, "regular file", TOP),
    Case("dataset_description.json 100 000 deep", _described(b"[" * 100_000), 16, "JSON", TOP),
    Case("dataset_description.json with 9 999 digits", _described(b"9" * 9999), 16, "JSON", TOP),
]

FOLDERS = [
    Case("no such dataset", _bids(lambda p: p.root / "none"), 66, "no dataset folder", "BIDS_DIR"),
    Case("dataset is a file", _bids(lambda p: p.beside("f", b"")), 66, "no dataset", "BIDS_DIR"),
    Case("dataset is a link to itself", _bids(_loop), 64, "circular|loop", "link"),
    Case(
        "dataset name too long", _bids(lambda p: p.root / ("x" * 300)), 64, "too long", "shorter"
    ),
    Case(
        "no participants", _remove_participants, 18, "no sub-\\*|no visit in", "no sub-\\* folder"
    ),
    Case("participant is a file", _participant_is_a_file, 18, "no visit in", "no sub-\\* folder"),
    Case(
        "participant is a link to itself",
        _participant_loop,
        18,
        "no visit in",
        "no sub-\\* folder",
    ),
    Case(
        "participant label with underscore",
        _renamed("sub-0_1/anat/sub-0_1_FLAIR.nii.gz"),
        18,
        "no visit in",
        "no sub-\\* folder",
    ),
    Case(
        "FLAIR named for another participant",
        _renamed("sub-01/anat/sub-02_FLAIR.nii.gz"),
        66,
        "is named sub-02 but is in the folder of sub-01",
        "move it to the right folder",
    ),
    Case(
        "FLAIR named for another session",
        _renamed("sub-01/ses-1/anat/sub-01_ses-2_FLAIR.nii.gz"),
        66,
        "is named ses-2 but is in the folder of ses-1",
        "move it to the right folder",
    ),
    Case(
        "acq- with a hyphen",
        _renamed("sub-01/anat/sub-01_acq-a-b_FLAIR.nii.gz"),
        66,
        "sub-01_acq-a-b_FLAIR.nii.gz has acq-a-b, which is not a valid BIDS label",
        "letters and digits",
    ),
    Case("participant's folder is empty", _empty_visit, 66, "is empty", "datalad get sub-01"),
    Case("session is a link upwards", _session_loop, 66, "no visit has a usable", "FLAIR"),
    Case("anat is a link to its own folder", _anat_loop, 66, "no visit has a usable", "FLAIR"),
    Case("anat may not be read", _closed_folder("anat"), 66, "no permission", "permission"),
    Case("participant may not be read", _closed_folder(""), 66, "no permission", "permission"),
    Case("T1w only", _renamed("sub-01/anat/sub-01_T1w.nii.gz"), 66, "no FLAIR", NO_FLAIR),
    Case("FLAIR in func", _renamed("sub-01/func/sub-01_FLAIR.nii.gz"), 66, "no FLAIR", NO_FLAIR),
    Case("FLAIR beside anat", _renamed("sub-01/sub-01_FLAIR.nii.gz"), 66, "no FLAIR", NO_FLAIR),
    Case(
        "FLAIR of phases only",
        _renamed("sub-01/anat/sub-01_part-phase_FLAIR.nii.gz"),
        66,
        "no FLAIR",
        NO_FLAIR,
    ),
    Case(
        "ending in capitals", _renamed("sub-01/anat/sub-01_FLAIR.NII.GZ"), 66, "no FLAIR", NO_FLAIR
    ),
    Case("bzip2", _renamed("sub-01/anat/sub-01_FLAIR.nii.bz2"), 66, "no FLAIR", NO_FLAIR),
    Case(
        ".hdr and .img",
        _renamed("sub-01/anat/sub-01_FLAIR.hdr", "sub-01/anat/sub-01_FLAIR.img"),
        66,
        "no FLAIR",
        NO_FLAIR,
    ),
    Case(
        "sessions without FLAIR",
        _renamed(
            "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz",
            "sub-01/ses-2/anat/sub-01_ses-2_T2w.nii.gz",
        ),
        66,
        "ses-1: no FLAIR .*ses-2: no FLAIR",
        "add a FLAIR",
    ),
    Case(
        "all of three runs damaged",
        _all_runs_are_bad,
        65,
        "damaged|not compressed",
        "",
        visit=True,
    ),
]

SELECTIONS = [
    Case("participant not there", _option("--participant-label", "99"), 18, "sub-99", SPELLING),
    Case("session not there", _option("--session-label", "9"), 18, "ses-9", SPELLING),
    Case(
        "label that climbs",
        _option("--participant-label", "../x"),
        64,
        "--participant-label",
        "letters and digits",
    ),
    Case(
        "label that is empty",
        _option("--participant-label", ""),
        64,
        "--participant-label",
        "letters and digits",
    ),
    Case(
        "session as participant",
        _option("--participant-label", "ses-1"),
        64,
        "--participant-label",
        "letters and digits",
    ),
    Case(
        "list of labels with junk",
        _listed(b"sub-01\n../../etc\n"),
        64,
        "--participant-label",
        "letters and digits",
    ),
    Case(
        "list of labels is binary", _listed(b"\xff\xfe\0\1"), 64, "not UTF-8", "save it as UTF-8"
    ),
]


def _filter(content: bytes) -> Callable[[Place], object]:
    return lambda p: p.option("--bids-filter-file", p.beside("filter.json", content))


def _json(content: object) -> Callable[[Place], object]:
    return _filter(json.dumps(content).encode())


FORM = "flair"
FILTERS = [
    Case(
        "filter file not there",
        _option("--bids-filter-file", "/no/such"),
        64,
        "cannot be read",
        "permissions",
    ),
    Case(
        "filter file is a folder",
        lambda p: p.option("--bids-filter-file", p.root),
        64,
        "Is a directory",
        "path",
    ),
    Case(
        "filter file is endless",
        _option("--bids-filter-file", "/dev/zero"),
        64,
        "larger than",
        "check the path",
    ),
    Case("filter file is empty", _filter(b""), 64, "not valid JSON", FORM),
    Case("filter file is cut off", _filter(b'{"flair": {'), 64, "not valid JSON", FORM),
    Case("filter file is binary", _filter(b"\x80\x81\0"), 64, "not UTF-8", "UTF-8"),
    Case("filter file is 100 000 deep", _filter(b"[" * 100_000), 64, "not valid JSON", FORM),
    Case(
        "filter file with 9 999 digits",
        _filter(b'{"flair": ' + b"9" * 9999 + b"}"),
        64,
        "not valid JSON",
        FORM,
    ),
    Case("filter file is a list", _json([1]), 64, "--bids-filter-file", FORM),
    Case("filter of a word", _json({"flair": "3d"}), 64, "--bids-filter-file", FORM),
    Case("filter twice", _json({"flair": {}, "FLAIR": {}}), 64, "--bids-filter-file", "once"),
    Case(
        "filter of an unknown entity",
        _json({"flair": {"colour": 1}}),
        64,
        "pybids rejects",
        "entity names",
    ),
    Case(
        "filter that leaves nothing", _json({"flair": {"run": 7}}), 18, "excludes every", "relax"
    ),
    Case(
        "filter of tables",
        _json({"flair": {"run": {"a": {"b": 1}}}}),
        64,
        "invalid value of an entity",
        "",
    ),
    Case(
        "filter with NUL", _json({"flair": {"acquisition": "\0"}}), 18, "excludes every", "relax"
    ),
    Case("filter of the wrong person", _json({"flair": {"subject": "99"}}), 18, "filter file", ""),
]


def _out(make: Callable[[Place], object]) -> Callable[[Place], object]:
    def spoil(place: Place) -> None:
        place.positional[1] = str(make(place))

    return spoil


def _of_another(place: Place, content: object) -> object:
    folder = place.root / "taken"
    folder.mkdir()
    (folder / DESCRIPTION).write_text(json.dumps(content))
    return folder


def _closed(place: Place) -> object:
    place.out.mkdir(mode=0o500)
    place.unprivileged = True
    return place.out


def _closed_work(place: Place) -> None:
    work = place.root / "work"
    work.mkdir(mode=0o500)
    place.unprivileged = True
    place.option("-w", work)


def _work(make: Callable[[Place], object]) -> Callable[[Place], object]:
    return lambda place: place.option("-w", make(place))


_FMRIPREP = {"DatasetType": "derivative", "GeneratedBy": [{"Name": "fMRIPrep"}]}

OUTPUTS = [
    Case("OUT is the dataset", _out(lambda p: p.bids), 64, "dataset itself", ELSEWHERE),
    Case(
        "OUT inside the dataset", _out(lambda p: p.bids / "out"), 64, "inside the BIDS", ELSEWHERE
    ),
    Case(
        "OUT inside a participant", _out(lambda p: p.bids / "sub-01/out"), 64, "inside", ELSEWHERE
    ),
    Case(
        "OUT is derivatives itself",
        _out(lambda p: p.bids / "derivatives"),
        64,
        "inside",
        ELSEWHERE,
    ),
    Case("OUT holds the dataset", _out(lambda p: p.root), 64, "holds the BIDS", ELSEWHERE),
    Case("OUT is a file", _out(lambda p: p.beside("f", b"")), 73, "cannot be written", "folder"),
    Case(
        "OUT below a file",
        _out(lambda p: p.beside("f", b"") + "/out"),
        73,
        "cannot be written",
        "folder",
    ),
    Case("OUT is a link to itself", _out(_loop), 64, "circular|loop", "link"),
    Case("OUT name too long", _out(lambda p: p.root / ("x" * 300)), 64, "too long", "shorter"),
    Case("OUT is read-only", _out(_closed), 73, "cannot be written", "writable folder"),
    Case(
        "OUT of another pipeline",
        _out(lambda p: _of_another(p, _FMRIPREP)),
        64,
        "outputs of fMRIPrep",
        ELSEWHERE,
    ),
    Case(
        "OUT is another raw dataset",
        _out(lambda p: _of_another(p, {"Name": "x"})),
        64,
        "raw BIDS",
        ELSEWHERE,
    ),
    Case(
        "work folder inside the dataset",
        _work(lambda p: p.bids / "work"),
        64,
        "in the dataset",
        "work",
    ),
    Case("work folder is OUT", _work(lambda p: p.out), 64, "inputs or the outputs", "work"),
    Case(
        "work folder is a file",
        _work(lambda p: p.beside("f", b"")),
        73,
        "cannot be written",
        "folder",
    ),
    Case("work folder is read-only", _closed_work, 73, "cannot be written", "writable folder"),
]

DATASET_CASES = [*DESCRIPTIONS, *FOLDERS, *SELECTIONS, *FILTERS, *OUTPUTS]
