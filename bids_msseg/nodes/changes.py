"""The node that compares two visits of a participant, using only files in OUT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import File, traits
from scipy import ndimage

from bids_msseg.bids.changes import FIGURES, PairFiles, PairResult, VisitPair, pair_files
from bids_msseg.bids.derivatives import OUTPUTS, Output, preprocessed
from bids_msseg.bids.record import VisitRecord, recorded_visit
from bids_msseg.errors import DataError, NoInputError
from bids_msseg.imaging.registration.itk import write_itk_affine
from bids_msseg.imaging.registration.visit_alignment import (
    Alignment,
    CommonGrid,
    align_visits,
    build_common_grid,
)
from bids_msseg.imaging.resample import inverse, resample
from bids_msseg.imaging.volume import Affine, Volume, load_volume, save_volume
from bids_msseg.lesions.longitudinal.change import Comparison, compare_lesions
from bids_msseg.lesions.longitudinal.flair_change import VisitMaps
from bids_msseg.lesions.longitudinal.match import carry_labels
from bids_msseg.lesions.longitudinal.rows import ChangeRow, ChangeRule, Code
from bids_msseg.nodes.base import Step, StepInputs, StepOutputs
from bids_msseg.reports.images.figures import change_mosaic, registration_mosaic
from bids_msseg.reports.tables import read_tsv

MARKS = {
    Code.UNCLEAR: ("unclear", (170, 170, 170)),
    Code.GAINED: ("gained", (240, 228, 66)),
    Code.LOST: ("lost", (86, 180, 233)),
    Code.RESOLVED: ("resolved", (0, 158, 115)),
    Code.NEW: ("new", (255, 140, 0)),
}
"""Colours of Okabe and Ito, new lesions on top."""


@dataclass(frozen=True, slots=True)
class PairContext:
    """A pair of visits, its output folder and the rule for its comparison."""

    out_dir: Path
    pair: VisitPair
    rule: ChangeRule = field(default_factory=ChangeRule)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Digest of what the comparison depends on."""
        return self.pair.fingerprint(self.rule)

    @property
    def files(self) -> PairFiles:
        """Paths of the results."""
        return pair_files(self.out_dir, self.pair.earlier.session or "", self.pair.later)


class _CompareInputs(StepInputs):
    context = traits.Any(mandatory=True, nohash=True)
    fingerprint = traits.Str(mandatory=True)
    seed = traits.Int(0, usedefault=True)


class _CompareOutputs(StepOutputs):
    result_file = File(desc="JSON: one object per lesion, and the noise; or why not compared")
    # texts, as a path cannot be empty, and a merge would pass over what is undefined
    codes_file = traits.Str(
        desc="changes on the later FLAIR as acquired; empty where not compared"
    )
    transform_file = traits.Str(desc="later world to earlier world; empty where not compared")
    figure_files = traits.List(traits.Str)


class CompareVisits(Step):
    """Register two visits and determine the change of each lesion."""

    input_spec = _CompareInputs
    output_spec = _CompareOutputs

    def work(self, folder: Path, **inputs: Any) -> dict[str, Any]:
        """Write table, image, transform and pictures, or why the visits cannot be aligned."""
        context: PairContext = inputs["context"]
        earlier = _Images.load(context.out_dir, context.pair.earlier)
        later = _Images.load(context.out_dir, context.pair.later)
        alignment = align_visits(
            earlier.flair,
            later.flair,
            earlier_brain=earlier.brain.data > 0,
            later_brain=later.brain.data > 0,
            threads=inputs["threads"],
            seed=inputs["seed"],
        )
        try:
            grid = _build_grid(alignment, earlier, later)
        except DataError as error:
            return _write_attempt(folder, earlier, later, alignment, error)
        comparison = compare_lesions(
            earlier.resample_to(grid, later=False),
            later.resample_to(grid, later=True),
            grid.inside,
            rule=context.rule,
            disagreement_mm=alignment.disagreement_mm,
        )
        codes = codes_on_later(comparison, grid, later.labels)
        result = _result(comparison, grid, earlier, later)
        files = {name: folder / name for name in ("changes.nii.gz", "xfm.txt", "changes.json")}
        save_volume(codes, files["changes.nii.gz"])
        write_itk_affine(alignment.affine, files["xfm.txt"])
        files["changes.json"].write_text(result.to_json(), encoding="utf-8")
        return {
            "result_file": str(files["changes.json"]),
            "codes_file": str(files["changes.nii.gz"]),
            "transform_file": str(files["xfm.txt"]),
            "figure_files": _draw(folder, earlier, later, codes, grid),
        }


@dataclass(frozen=True, slots=True)
class _Images:
    """Images and lesion table of a visit in OUT."""

    flair: Volume
    brain: Volume
    probability: Volume
    labels: Volume
    table: Mapping[int, Mapping[str, str]]
    threshold: float

    @classmethod
    def load(cls, out_dir: Path, record: VisitRecord) -> _Images:
        """Read the images of a finished visit."""
        visit = recorded_visit(record)

        def image(output: Output) -> Path:
            path = output.path(out_dir, visit, ".nii.gz")
            if not path.is_file():
                raise NoInputError(
                    f"{path.name} is missing, so {record.key} cannot be compared",
                    hint="run the participant level for this visit again",
                )
            return path

        table = OUTPUTS["lesion_stats"].path(out_dir, visit, ".tsv")
        rows = [row for row in read_tsv(table) if row.get("status", "kept") == "kept"]
        threshold = record.options.get("threshold")
        labels = load_volume(image(OUTPUTS["labels"]), np.int32)
        if record.lesion_mask:
            # a given mask has no uncertain voxels
            probability = labels.with_data((labels.data > 0).astype(np.float32))
        else:
            probability = load_volume(image(OUTPUTS["probseg"]))
        return cls(
            flair=load_volume(image(preprocessed("FLAIR"))),
            brain=load_volume(image(OUTPUTS["brain"]), np.uint8),
            probability=probability,
            labels=labels,
            table={int(row["index"]): row for row in rows},
            threshold=float(threshold) if isinstance(threshold, (int, float)) else 0.5,
        )

    @property
    def volumes_mm3(self) -> dict[int, float]:
        """Volume of every lesion, computed from the image like those in the table."""
        sizes = np.bincount(self.labels.data.ravel()) * self.labels.voxel_volume
        return {int(label): float(sizes[label]) for label in np.flatnonzero(sizes) if label}

    def resample_to(self, grid: CommonGrid, *, later: bool) -> VisitMaps:
        """Resample all maps to the common grid."""
        probability = grid.take(self.probability, later=later)
        stepped = grid.take(self.labels, later=later, order=0)
        volumes = self.volumes_mm3
        centres = _centres(self.labels, list(volumes), grid, later=later)
        return VisitMaps(
            flair=grid.flair(self.flair, later=later),
            probability=probability,
            labels=carry_labels(stepped.astype(np.int32), probability, self.threshold, centres),
            volumes_mm3=volumes,
            threshold=self.threshold,
            edge_mm=float(self.flair.spacing.max()),
        )


def _build_grid(alignment: Alignment, earlier: _Images, later: _Images) -> CommonGrid:
    """Build the common grid; raise DataError if the alignment failed."""
    if alignment.failure_reason:
        raise DataError(
            f"the two visits could not be aligned: {alignment.failure_reason}",
            hint="check both FLAIR images and the orientation in their headers",
        )
    return build_common_grid(alignment, earlier.brain, later.brain)


def _centres(
    labels: Volume, lesions: list[int], grid: CommonGrid, *, later: bool
) -> dict[int, tuple[int, int, int]]:
    """Return the voxel of the common grid that contains the centre of each lesion."""
    if not lesions:
        return {}
    index = np.array(ndimage.center_of_mass(labels.data > 0, labels.data, lesions))
    move = grid.alignment.to_later if later else grid.alignment.to_earlier
    chain = inverse(grid.affine) @ inverse(move) @ labels.affine
    voxels = np.rint(index @ chain[:3, :3].T + chain[:3, 3]).astype(int)
    inside = np.clip(voxels, 0, np.array(grid.inside.shape) - 1)
    return {
        label: (int(x), int(y), int(z)) for label, (x, y, z) in zip(lesions, inside, strict=True)
    }


def codes_on_later(comparison: Comparison, grid: CommonGrid, labels: Volume) -> Volume:
    """Resample the change codes to the later FLAIR, with the borders of its lesions."""
    common = Volume(comparison.codes, grid.affine)
    move = inverse(grid.alignment.to_later)
    near = resample(common, labels.shape, labels.affine, transform=move, order=0).data
    base = np.zeros(int(labels.data.max(initial=0)) + 1, np.uint8)
    for row in comparison.rows:
        kind = Code[row.change.upper()] if row.change in ("new", "unclear") else Code.STABLE
        base[list(row.lesions_after)] = kind
    is_lesion = labels.data > 0
    inside = np.where(near == Code.GAINED, near, base[labels.data])
    outside = np.where(np.isin(near, (Code.LOST, Code.RESOLVED, Code.UNCLEAR)), near, 0)
    return labels.with_data(np.where(is_lesion, inside, outside).astype(np.uint8))


def _result(
    comparison: Comparison, grid: CommonGrid, earlier: _Images, later: _Images
) -> PairResult:
    chain = grid.alignment.to_later @ grid.affine
    centres = [chain[:3, :3] @ np.array(row.centre) + chain[:3, 3] for row in comparison.rows]
    return PairResult(
        rows=comparison.rows,
        centres_mm=tuple((float(x), float(y), float(z)) for x, y, z in centres),
        regions=tuple(_region(row, earlier, later) for row in comparison.rows),
        disagreement_mm=grid.alignment.disagreement_mm,
        border_sd_mm=comparison.border_sd_mm,
        matched=comparison.matched,
        notes=grid.alignment.notes,
    )


def _region(row: ChangeRow, earlier: _Images, later: _Images) -> str:
    """Return the region of the largest lesion, at the later visit if it exists there."""
    table, labels = later.table, row.lesions_after
    if not labels:
        table, labels = earlier.table, row.lesions_before
    # lesions are numbered by decreasing volume
    return table.get(labels[0], {}).get("region", "n/a")


def _draw(
    folder: Path, earlier: _Images, later: _Images, codes: Volume, grid: CommonGrid
) -> list[str]:
    """Draw the pictures into the node's folder."""
    moved = _moved(earlier, later, grid.alignment.affine)
    mosaic = change_mosaic(
        later.flair, moved, codes, later.brain, {int(code): mark for code, mark in MARKS.items()}
    )
    return _save_pictures(folder, {frame.key: frame.png for frame in mosaic.frames})


def _save_pictures(folder: Path, pictures: Mapping[str, bytes]) -> list[str]:
    """Write pictures into the node's folder, each under its ``desc-`` label."""
    for desc, png in pictures.items():
        (folder / f"{desc}.png").write_bytes(png)
    return [str(folder / f"{desc}.png") for desc in pictures]


def _moved(earlier: _Images, later: _Images, move: Affine) -> Volume:
    """Resample the earlier FLAIR to the later one."""
    return resample(earlier.flair, later.flair.shape, later.flair.affine, transform=move)


def _write_attempt(
    folder: Path, earlier: _Images, later: _Images, alignment: Alignment, error: DataError
) -> dict[str, Any]:
    """Write why two visits cannot be compared, and pictures of both, but not of changes."""
    result = PairResult(
        rows=(),
        centres_mm=(),
        regions=(),
        disagreement_mm=alignment.disagreement_mm,
        border_sd_mm=0.0,
        matched=0,
        notes=alignment.notes,
        failure_reason=error.message,
        hint=error.hint,
    )
    target = folder / "changes.json"
    target.write_text(result.to_json(), encoding="utf-8")
    moved = {"earlier visit": _moved(earlier, later, alignment.affine)}
    mosaic = registration_mosaic(later.flair, moved, later.brain, doubtful=moved)
    _, later_desc, earlier_desc = FIGURES
    pngs = (frame.png for frame in mosaic.frames)
    pictures = dict(zip((earlier_desc, later_desc), pngs, strict=True))
    return {
        "result_file": str(target),
        "codes_file": "",
        "transform_file": "",
        "figure_files": _save_pictures(folder, pictures),
    }
