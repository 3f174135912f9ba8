"""All invalid images in one dataset with a good visit, which must be finished."""

from __future__ import annotations

import csv
import gzip
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from bids_msseg.cli.run import main

from .image_cases import IMAGE_CASES
from .place import ONE_THREAD, Place, broken_texts, remains

pytestmark = pytest.mark.slow
NAME = "Doe^Jane"
CASES = [case for case in IMAGE_CASES if case.name != "file without permission"]
MISNAMED = {
    "of another": "sub-misnamed1/anat/sub-other_FLAIR.nii.gz",
    "with a label that is none": "sub-misnamed2/anat/sub-misnamed2_acq-a-b_FLAIR.nii.gz",
}


@dataclass(frozen=True)
class Ended:
    code: int
    out: Path
    top: Path
    tried: list[object]


def _good_visit(bids: Path, make_phantom: Callable[..., Any]) -> None:
    """Write a phantom whose header and sidecar name a person."""
    phantom = make_phantom("LIP", (2.0, 3.0, 2.0))
    path = bids / "sub-good/anat/sub-good_FLAIR.nii.gz"
    phantom.write(path, "FLAIR", seed=3, kind="int16")
    image = nib.load(path)
    for name in ("descrip", "db_name", "aux_file", "intent_name"):
        image.header[name] = NAME
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", NAME.encode()))
    stored = np.asarray(image.dataobj)
    nib.save(nib.Nifti1Image(stored, image.affine, image.header), path)
    about = {"PatientName": NAME, "InstitutionName": NAME, "AcquisitionTime": NAME}
    path.with_name("sub-good_FLAIR.json").write_text(json.dumps(about))


@pytest.fixture(scope="module")
def ended(
    tmp_path_factory: pytest.TempPathFactory,
    toy_cascade: Path,
    bright_model: Path,
    make_phantom: Callable[..., Any],
) -> Ended:
    """Gather all cases into one dataset and run both levels without network access."""
    top = tmp_path_factory.mktemp("beside")
    bids = top / "all"
    _good_visit(bids, make_phantom)
    about = {"Name": "All", "BIDSVersion": "1.10.1"}
    (bids / "dataset_description.json").write_text(json.dumps(about))
    for number, case in enumerate(CASES):
        place = Place(top / f"one{number}", toy_cascade)
        case.spoil(place)
        _gather(place.bids / "sub-01/anat", bids / f"sub-{number:03}/anat", number)
        shutil.rmtree(place.root)
    for name in MISNAMED.values():
        (bids / name).parent.mkdir(parents=True)
        shutil.copy(bids / "sub-good/anat/sub-good_FLAIR.nii.gz", bids / name)
    out = top / "out"
    words = [bids, out, "participant", "group", "--model", bright_model, *ONE_THREAD]
    with pytest.MonkeyPatch.context() as patch:
        tried = _cut_off(patch)
        code = main([str(word) for word in words])
    return Ended(code, out, top, tried)


def _gather(source: Path, target: Path, number: int) -> None:
    """Move a case's folder, under another participant's name."""
    target.parent.mkdir(parents=True)
    source.rename(target)
    for path in list(target.iterdir()):
        path.rename(target / path.name.replace("sub-01", f"sub-{number:03}"))


def _cut_off(patch: pytest.MonkeyPatch) -> list[object]:
    import socket

    tried: list[object] = []

    def refuse(*arguments: object, **_: object) -> None:
        tried.append(arguments)
        raise OSError("the network is cut off for this test")

    for name in ("getaddrinfo", "create_connection", "gethostbyname"):
        patch.setattr(socket, name, refuse)
    for name in ("connect", "connect_ex", "sendto"):
        patch.setattr(socket.socket, name, refuse)
    return tried


def _record(out: Path, key: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / f"logs/visits/{key}.json").read_text())
    return content


def test_the_good_visit_is_finished(ended: Ended) -> None:
    record = _record(ended.out, "sub-good")
    assert (record["status"], record["lesion_count"]) == ("ok", 3)


def test_invalid_visits_have_reason_and_hint(ended: Ended) -> None:
    assert ended.code == 1  # their codes differ
    for number, case in enumerate(CASES):
        record = _record(ended.out, f"sub-{number:03}")
        assert record["status"] == ("failed" if case.visit else "skipped"), case.name
        assert record["reason"], case.name
        assert record["hint"], case.name
    with (ended.out / "group_lesions.tsv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    for number in range(1, len(MISNAMED) + 1):
        assert _record(ended.out, f"sub-misnamed{number}")["status"] == "skipped"
    assert len(rows) == len(CASES) + len(MISNAMED) + 1
    assert sum(row["status"] == "ok" for row in rows) == 1


def test_invalid_visits_leave_no_images(ended: Ended) -> None:
    for number in range(len(CASES)):
        assert remains(ended.out / f"sub-{number:03}") == []
    assert broken_texts(ended.out) == []


def test_run_opens_no_network_connection(ended: Ended) -> None:
    assert ended.tried == []


def test_outputs_contain_no_person_names_or_local_paths(ended: Ended) -> None:
    looked = 0
    for path in ended.out.rglob("*"):
        parts = path.relative_to(ended.out).parts
        if not path.is_file() or parts[0] == ".work" or parts[-1].startswith("crash-"):
            continue
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        assert NAME.encode() not in content, path.name
        if path.suffix in (".html", ".json", ".tsv", ".md"):
            assert str(ended.top).encode() not in content, path.name
        looked += 1
    assert looked > 100
