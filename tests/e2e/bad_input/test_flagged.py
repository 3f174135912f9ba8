"""Unusual images that can be processed: the visit is finished and flagged."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from bids_msseg.calibration import Calibration, write_calibration
from bids_msseg.cli.run import main
from bids_msseg.imaging.normalise import CONTRASTS, build_stack
from bids_msseg.imaging.quality import TrainingVisits
from bids_msseg.imaging.quality_measures import measure_visit
from bids_msseg.imaging.volume import Volume
from bids_msseg.models.weights import read_header

from .place import ONE_THREAD, broken_texts

pytestmark = pytest.mark.slow
SPACING = (2.0, 2.0, 2.0)
CUBE_MM = 80
CASES = {
    "cube": (
        "a phantom cube called a brain",
        "the volume of the brain mask is 512 mL, outside the usual 700-2200 mL: check the mask",
    ),
    "half": ("head cut off", "the field of view cuts off a part of the brain: the brain mask"),
    "swap": ("T2w labelled FLAIR", "the FLAIR image looks like a T2w image: check the file names"),
}


@dataclass(frozen=True)
class Ended:
    code: int
    log: str
    out: Path

    def record(self, label: str) -> dict[str, Any]:
        path = self.out / f"logs/visits/sub-{label}.json"
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return content


def _save(bids: Path, label: str, data: np.ndarray, affine: np.ndarray) -> None:
    path = bids / f"sub-{label}/anat/sub-{label}_FLAIR.nii.gz"
    path.parent.mkdir(parents=True)
    image = nib.Nifti1Image(data.astype(np.int16), affine)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)


def _cube() -> np.ndarray:
    """Return an image of a water phantom: a noisy cube surrounded by air."""
    edge = CUBE_MM // 2
    data = np.zeros((edge + 20,) * 3)
    noise = np.random.default_rng(5).normal(0, 20, (edge,) * 3)
    data[10:-10, 10:-10, 10:-10] = np.maximum(500 + noise, 1)
    return data


def _store_calibration(model: Path, make_phantom: Callable[..., Any]) -> None:
    """Write the calibration of a training on four phantoms."""
    phantom = make_phantom(spacing=SPACING)
    visits = []
    for seed in range(1, 5):
        images = {c: Volume(phantom.image(c, seed), phantom.affine) for c in CONTRASTS}
        mask = Volume(images["FLAIR"].data > 0, phantom.affine)
        stack = build_stack(images, mask)
        spacings = dict.fromkeys(CONTRASTS, SPACING)
        measures = measure_visit(
            stack.data, stack.present, stack.brain, mask=mask, spacings=spacings
        )
        visits.append(measures)
    known = Calibration(training=TrainingVisits(tuple(visits)))
    write_calibration(model, known, name="bright", sha256=read_header(model).sha256)


@pytest.fixture(scope="module")
def ended(
    tmp_path_factory: pytest.TempPathFactory,
    bright_model: Path,
    make_phantom: Callable[..., Any],
) -> Ended:
    top = tmp_path_factory.mktemp("flagged")
    bids, out, model = top / "bids", top / "out", top / "bright.safetensors"
    model.write_bytes(bright_model.read_bytes())
    _store_calibration(model, make_phantom)
    phantom = make_phantom(spacing=SPACING)
    flair = phantom.image("FLAIR")
    _save(bids, "good", flair, phantom.affine)
    _save(bids, "cube", _cube(), phantom.affine)
    _save(bids, "half", flair[:, :, : flair.shape[2] // 2], phantom.affine)
    _save(bids, "swap", phantom.image("T2w"), phantom.affine)
    about = {"Name": "Odd", "BIDSVersion": "1.10.1"}
    (bids / "dataset_description.json").write_text(json.dumps(about))
    (bids / "FLAIR.json").write_text(json.dumps({"SkullStripped": True}))
    log = top / "log"
    words = [bids, out, "participant", "group", "--fast", "--model", model, *ONE_THREAD]
    code = _run([str(word) for word in words], log)
    return Ended(code, log.read_text(encoding="utf-8"), out)


def _run(words: Sequence[str], log: Path) -> int:
    from contextlib import redirect_stderr

    with log.open("w", encoding="utf-8") as stream, redirect_stderr(stream):
        return main(words)


def test_run_with_unusual_images_succeeds(ended: Ended) -> None:
    assert ended.code == 0, ended.log
    assert "Traceback" not in ended.log
    assert broken_texts(ended.out) == []


def test_visit_similar_to_training_is_not_flagged(ended: Ended) -> None:
    record = ended.record("good")
    assert (record["status"], record["quality_reasons"]) == ("ok", [])


@pytest.mark.parametrize("label", CASES)
def test_unusual_visit_is_finished_and_flagged(
    label: str, ended: Ended, note_row: Callable[..., None]
) -> None:
    name, says = CASES[label]
    record = ended.record(label)
    assert record["status"] == "ok"
    reasons = record["quality_reasons"]
    note_row(name, 0, "; ".join(reasons), "flagged in the record, the page and the tables")
    assert any(reason.startswith(says) for reason in reasons), reasons
    page = (ended.out / f"sub-{label}.html").read_text(encoding="utf-8")
    assert "The images are unusual; the result may be wrong." in page
    assert says in page


def test_group_table_contains_quality_flags(ended: Ended) -> None:
    with (ended.out / "group_lesions.tsv").open(encoding="utf-8", newline="") as stream:
        rows = {row["participant_id"]: row for row in csv.DictReader(stream, delimiter="\t")}
    assert rows["sub-good"]["quality"] == "ok"
    for label, (_, says) in CASES.items():
        assert rows[f"sub-{label}"]["quality"] == "flagged"
        assert says in rows[f"sub-{label}"]["quality_reasons"]
