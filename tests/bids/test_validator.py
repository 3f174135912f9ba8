"""The official validator accepts a complete output dataset of this package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bids_msseg.bids.dataset import write_dataset_files
from bids_msseg.bids.derivatives import (
    OUTPUTS,
    Output,
    mask_in,
    preprocessed,
    single_images,
    transform,
)
from bids_msseg.bids.files import write_json, write_tsv
from bids_msseg.bids.paths import figure_path, group_path, report_path
from bids_msseg.bids.query import find_visits
from bids_msseg.bids.record import VisitRecord, write_record
from bids_msseg.bids.record_values import ModelUse
from bids_msseg.bids.sidecars import (
    Method,
    Origin,
    bids_uri,
    dseg_columns,
    dseg_rows,
    template_uri,
)
from bids_msseg.bids.visit import Visit
from bids_msseg.io.atomic import write_atomic
from bids_msseg.lesions.load import rows_to_table
from bids_msseg.lesions.load_table import lesion_table
from bids_msseg.models.brain_volumes import LABEL_COLUMNS, label_rows, measure_volumes

TEMPLATE = "MNI152NLin2009aSym"
VERSIONS = {"bids_msseg": "0.1.0", "torch": "2.13.0"}
METHOD = Method(ModelUse("cascade", "1", "0" * 64), 0.5, 3.0, 0.1, brain_mask="deepbet 1.0.2")


class Writer:
    """Writes all outputs of one visit."""

    def __init__(self, out: Path, bids: Path, visit: Visit, make_image: Callable[..., Path]):
        self.out, self.visit, self.make_image = out, visit, make_image
        self.uris = {
            name: bids_uri(path, {"raw": bids, "": out}) for name, path in visit.contrasts.items()
        }

    def image(self, output: Output, *values: Any, **named: Any) -> None:
        suffix = output.entities["suffix"]
        kind = "float32" if suffix in ("probseg", "FLAIR", "T1w", "T2w") else "uint8"
        place = self.out, self.visit
        self.make_image(output.path(*place, ".nii.gz"), (0.5, 0.5, 3.0), dtype=kind)
        write_json(output.path(*place, ".json"), output.sidecar(*values, **named))

    def native(self) -> None:
        origin = Origin(tuple(self.uris.values()), self.uris["FLAIR"], software=VERSIONS)
        for contrast, uri in self.uris.items():
            self.image(
                preprocessed(contrast),
                contrast,
                Origin((uri,), self.uris["FLAIR"]),
                skull_stripped=True,
                steps=("bias field removed (N4)",),
            )
        for name in single_images(self.visit):
            self.image(OUTPUTS[name], origin, METHOD)

    def tables(self) -> None:
        labels = np.array([0, 1, 1, 0, 2]).reshape(5, 1, 1)
        rows = lesion_table(labels, np.eye(4), template_affine=np.eye(4))
        place = self.out, self.visit
        write_tsv(OUTPUTS["labels"].path(*place, ".tsv"), dseg_columns(), dseg_rows(rows))
        volumes = measure_volumes(np.arange(12), voxel_volume=1000.0)
        anatomy = OUTPUTS["anatomy"].path(*place, ".tsv")
        write_tsv(anatomy, tuple(LABEL_COLUMNS), label_rows(volumes))
        stats, cells = OUTPUTS["lesion_stats"], rows_to_table(rows)
        write_tsv(stats.path(*place, ".tsv"), list(cells[0]), cells)
        write_json(stats.path(*place, ".json"), stats.sidecar())

    def elsewhere(self) -> None:
        if "T1w" in self.uris:
            origin = Origin((self.uris["FLAIR"],), self.uris["T1w"])
            self.image(mask_in("T1w"), origin, METHOD)
            self.xfm("T1w", "FLAIR", "rigid")
        for name in (TEMPLATE, "MNI152NLin2009cAsym", "OASIS30ANTs", "MNIPediatricAsym+1"):
            origin = Origin((self.uris["FLAIR"],), template_uri(name, 1), "1 mm isotropic")
            self.image(mask_in(name, 1), origin, METHOD)
            self.xfm("FLAIR", name, "affine")

    def xfm(self, from_: str, to: str, kind: str) -> None:
        output, place = transform(from_, to), (self.out, self.visit)
        write_atomic(output.path(*place, ".txt"), "#Insight\n")
        sidecar = output.sidecar(
            from_, to, kind=kind, sources=list(self.uris.values()), software=VERSIONS
        )
        write_json(output.path(*place, ".json"), sidecar)

    def pages(self) -> None:
        for desc in ("lesions", "brain", "registration"):
            write_atomic(figure_path(self.out, self.visit, desc), "<svg/>")
        write_atomic(report_path(self.out, self.visit.participant), "<html></html>")
        visit = self.visit
        write_record(self.out, VisitRecord(visit.participant, visit.session, visit.prefix, "ok"))

    def write(self) -> None:
        self.native()
        self.tables()
        self.elsewhere()
        self.pages()


RAW = {
    "sub-01/ses-1/anat/sub-01_ses-1_acq-3D_run-02_FLAIR.nii.gz": (1, 1, 1),
    "sub-01/ses-1/anat/sub-01_ses-1_acq-3D_T1w.nii.gz": (1, 1, 1),
    "sub-01/ses-1/anat/sub-01_ses-1_T2w.nii.gz": (1, 1, 1),
    "sub-01/ses-2/anat/sub-01_ses-2_ce-gad_rec-norm_FLAIR.nii.gz": (1, 1, 1),
    "sub-02/anat/sub-02_FLAIR.nii": (1, 1, 1),
    "sub-02/anat/sub-02_T1w.nii.gz": (1, 1, 1),
}


@pytest.mark.parametrize("place", ["out", "raw/derivatives/bids_msseg-0.1"])
def test_output_dataset_passes_validator(
    make_dataset: Callable[..., Path],
    make_image: Callable[..., Path],
    tmp_path: Path,
    bids_issues: Callable[[Path], list[dict[str, Any]]],
    place: str,
) -> None:
    bids, out = make_dataset(RAW), tmp_path / place
    write_dataset_files(out, bids, options={"threshold": 0.5}, environment={})
    visits = find_visits(bids).visits
    for visit in visits:
        Writer(out, bids, visit, make_image).write()
    (out / ".work" / "sub-01").mkdir(parents=True)
    (out / ".work" / "sub-01" / "node.pklz").write_bytes(b"x")
    (out / ".0123456789ab.sub-01_FLAIR.nii.gz").write_bytes(b"left by a killed run")
    for extension in (".tsv", ".json", ".html"):
        write_atomic(group_path(out, extension), "x")
    assert [visit.prefix for visit in visits] == [
        "sub-01_ses-1_acq-3D_run-02",
        "sub-01_ses-2_ce-gad_rec-norm",
        "sub-02",
    ]
    assert bids_issues(out) == []


def test_validator_reports_missing_sidecar(
    make_dataset: Callable[..., Path],
    make_image: Callable[..., Path],
    tmp_path: Path,
    bids_issues: Callable[[Path], list[dict[str, Any]]],
) -> None:
    """Control of the test above: without sidecars, the same check must fail."""
    bids, out = make_dataset(RAW), tmp_path / "out"
    write_dataset_files(out, bids, environment={})
    visit = find_visits(bids).visits[0]
    make_image(OUTPUTS["mask"].path(out, visit, ".nii.gz"))
    assert any(issue["severity"] == "error" for issue in bids_issues(out))
