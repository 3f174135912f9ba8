"""The node that writes a visit's results, with the record last."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nipype.interfaces.base import File, traits

from bids_msseg.bids import sidecars
from bids_msseg.bids.derivatives import (
    OUTPUTS,
    Output,
    filled,
    mask_in,
    preprocessed,
    single_images,
    transform,
    unrequested_files,
)
from bids_msseg.bids.files import lists_to_tuples, publish, write_json, write_tsv
from bids_msseg.bids.paths import intermediate_path, lesion_roi_path
from bids_msseg.bids.record import VisitRecord, write_record
from bids_msseg.bids.record_values import ContrastUse
from bids_msseg.bids.sidecars import Origin, template_uri
from bids_msseg.bids.visit import Visit, name_entities
from bids_msseg.imaging.header import check_header
from bids_msseg.imaging.volume import load_volume
from bids_msseg.lesions.load import LesionRow, rows_to_table, summarise
from bids_msseg.models.anatomy import LABELS
from bids_msseg.models.brain_volumes import LABEL_COLUMNS, MEASURES, BrainVolumes, label_rows
from bids_msseg.nodes.base import Step, StepInputs, StepOutputs
from bids_msseg.nodes.context import DerivativesContext
from bids_msseg.nodes.quality import VisitQuality


class _PublishInputs(StepInputs):
    context = traits.Any(mandatory=True, nohash=True)
    fingerprint = traits.Str(desc="makes the node run again when the context changes")
    table_file = File(exists=True, mandatory=True)
    excluded_ml = traits.Float(desc="undefined without exclusion masks")
    quality_file = File(exists=True, mandatory=True)
    estimate_file = File(exists=True, mandatory=True)
    brain_file = File(exists=True, mandatory=True)
    probseg_file = File(exists=True, desc="where networks were run; so are the candidates")
    labels_file = File(exists=True, mandatory=True)
    mask_file = File(exists=True, mandatory=True)
    candidates_file = File(exists=True)
    rejected_file = File(exists=True, mandatory=True)
    ventricles_file = File(exists=True, mandatory=True)
    anatomy_file = File(exists=True, desc="where networks were run")
    volumes_file = File(exists=True, desc="of the anatomy")
    brain_how = traits.Str(mandatory=True)
    preproc_files = traits.List(traits.Str, mandatory=True)
    preproc_names = traits.List(traits.Str, mandatory=True)
    space_files = traits.List(traits.Str)
    space_names = traits.List(traits.Str, desc="T1w, NAME:res-N, or WORLD NAME")
    roi_file = File(exists=True, desc="mask on the T1w, where fMRIPrep is to have it")
    transform_files = traits.List(traits.Str)
    transform_names = traits.List(traits.Str, desc="FROM TO rigid|affine")
    figure_files = traits.List(traits.Str)
    atlas_files = traits.List(traits.Str, desc="JSON: load per region of an atlas")
    filled_files = traits.List(traits.Str)
    filled_names = traits.List(traits.Str, desc="contrast")
    left_out = traits.List(traits.Str, desc="contrasts that could not be aligned")
    step_notes = traits.List(traits.Any)
    step_seconds = traits.List(traits.Float)
    step_names = traits.List(traits.Str)
    intermediate_file = File(desc="archive of what earlier steps have found, where it is new")


class _PublishOutputs(StepOutputs):
    record_file = File()


class PublishVisit(Step):
    """Move a visit's results to their final names, with sidecars beside them."""

    input_spec = _PublishInputs
    output_spec = _PublishOutputs
    always_run = True  # nipype does not check for the files that it writes to OUT

    def work(self, folder: Path, **inputs: Any) -> dict[str, Any]:  # noqa: ARG002
        """Write all results; the record, which marks them as complete, comes last."""
        full_context: DerivativesContext = inputs["context"]
        context = full_context.without(inputs.get("left_out", []))
        quality = VisitQuality.read(inputs["quality_file"], inputs["estimate_file"])
        table = json.loads(Path(inputs["table_file"]).read_text("utf-8"))
        flag = {"image_quality": quality.quality}
        rows = [LesionRow(**lists_to_tuples({**item, **flag})) for item in table]
        _publish_flair_space(context, inputs)
        _publish_preprocessed(context, inputs)
        _publish_spaces(context, inputs)
        _publish_roi(context, inputs)
        _publish_transforms(context, inputs)
        _publish_filled(context, inputs)
        anatomy = _Anatomy.read(inputs["volumes_file"]) if "volumes_file" in inputs else None
        _publish_tables(context, rows, anatomy.volumes if anatomy else None)
        _publish_atlases(context, inputs.get("atlas_files", []))
        _publish_intermediate(context, inputs)
        for path in unrequested_files(context.out_dir, context.visit, context.extras):
            path.unlink(missing_ok=True)
        record = quality.mark(_record(context, full_context.visit, rows, inputs))
        marked = record if anatomy is None else anatomy.mark(record)
        return {"record_file": str(write_record(context.out_dir, marked))}


@dataclass(frozen=True, slots=True)
class _Anatomy:
    """Brain volumes of a visit, and those that are implausible."""

    volumes: BrainVolumes
    implausible: tuple[str, ...]

    @classmethod
    def read(cls, volumes_file: str) -> _Anatomy:
        """Read the output of the node."""
        content = json.loads(Path(volumes_file).read_text(encoding="utf-8"))
        volumes = BrainVolumes(
            {label: content["ml"].get(str(int(label)), 0.0) for label in LABELS}
        )
        return cls(volumes, tuple(content["implausible"]))

    def mark(self, record: VisitRecord) -> VisitRecord:
        """Add the brain measures to a visit's record."""
        measures = {measure.name: measure.value(self.volumes) for measure in MEASURES}
        return replace(record, brain_measures=measures, anatomy_implausible=self.implausible)


def _publish_image(
    context: DerivativesContext, source: str, output: Output, *values: Any, **named: Any
) -> None:
    """Write the sidecar from the values, then the image, so that no image lacks a sidecar."""
    place = context.out_dir, context.visit
    write_json(output.path(*place, ".json"), output.sidecar(*values, **named))
    publish(Path(source), output.path(*place, output.extensions[0]), keep=True)


_BRAIN_METHODS = {
    "given": "made by another pipeline",
    "stripped": "the support of the skull-stripped input",
    "deepbet": "deepbet (Fisch et al. 2024)",
}


def _publish_flair_space(context: DerivativesContext, inputs: Mapping[str, Any]) -> None:
    method = replace(context.method(), brain_mask=_BRAIN_METHODS[inputs["brain_how"]])
    brain_masks = [context.visit.brain_mask] if context.visit.brain_mask else []
    sources = {
        "brain": tuple(map(context.uri, [context.visit.flair, *brain_masks])),
        "ventricles": context.sources(),
        "anatomy": context.sources(),
    }
    for name in single_images(context.visit, context.extras):
        origin = context.flair_origin(*sources.get(name, context.lesion_sources()))
        _publish_image(context, inputs[f"{name}_file"], OUTPUTS[name], origin, method)


def _publish_preprocessed(context: DerivativesContext, inputs: Mapping[str, Any]) -> None:
    for name, source in zip(inputs["preproc_names"], inputs["preproc_files"], strict=True):
        if name not in context.visit.contrasts:
            continue
        origin = context.flair_origin(context.uri(context.visit.contrasts[name]))
        steps = ["bias field removed (N4)", "brain only"]
        if name != "FLAIR":
            steps.insert(1, "rigid to FLAIR")
        _publish_image(
            context, source, preprocessed(name), name, origin, skull_stripped=True, steps=steps
        )


def _used_names(what: str, inputs: Mapping[str, Any]) -> list[str]:
    """Return the names of existing files, without those of contrasts that were left out."""
    left_out = inputs.get("left_out", [])
    return [name for name in inputs.get(what, []) if name.partition(" ")[0] not in left_out]


def _publish_spaces(context: DerivativesContext, inputs: Mapping[str, Any]) -> None:
    sources = context.lesion_sources()
    names, files = _used_names("space_names", inputs), inputs.get("space_files", [])
    for name, source in zip(names, files, strict=True):
        space, _, resolution = name.rpartition(" ")[2].partition(":res-")
        reference = _reference(context, space)
        if reference is not None:
            origin = Origin(sources, reference, software=context.versions)
        else:
            grid = f"{resolution} (1 mm isotropic)" if resolution == "1" else resolution
            reference = template_uri(space, resolution or None)
            origin = Origin(sources, reference, grid, context.versions)
        output = mask_in(space, resolution or None)
        _publish_image(context, source, output, origin, context.method())


def _reference(context: DerivativesContext, space: str) -> str | None:
    """Return the URI of the image that defines a grid; None for a template."""
    grids = {grid.name: Path(grid.file) for grid in context.extras.grids}
    path = {"T1w": context.visit.t1w, **grids}.get(space)
    if path is None:
        return None
    try:
        return context.uri(path)
    except ValueError:
        # no dataset that outputs name holds the file; do not publish its folder
        return f"urn:x-file:{quote(path.name)}"


def _publish_roi(context: DerivativesContext, inputs: Mapping[str, Any]) -> None:
    path = lesion_roi_path(context.out_dir, context.visit)
    if path is not None and "roi_file" in inputs:
        publish(Path(inputs["roi_file"]), path, keep=True)


def _publish_transforms(context: DerivativesContext, inputs: Mapping[str, Any]) -> None:
    names, files = _used_names("transform_names", inputs), inputs.get("transform_files", [])
    for name, source in zip(names, files, strict=True):
        start, end, kind = name.split()
        pair = [
            context.uri(context.visit.contrasts[space])
            if space in context.visit.contrasts
            else template_uri(space, 1)
            for space in (start, end)
        ]
        details = {"kind": kind, "sources": pair, "software": context.versions}
        _publish_image(context, source, transform(start, end), start, end, **details)


def _publish_filled(context: DerivativesContext, inputs: Mapping[str, Any]) -> None:
    names, files = _used_names("filled_names", inputs), inputs.get("filled_files", [])
    sources = dict.fromkeys((*context.sources(), *context.lesion_sources()))
    for name, source in zip(names, files, strict=True):
        reference = context.uri(context.visit.contrasts[name])
        stripped = context.visit.skull_stripped(name)
        _publish_image(
            context,
            source,
            filled(name),
            name,
            Origin(tuple(sources), reference, software=context.versions),
            context.method(),
            skull_stripped=inputs["brain_how"] == "stripped" if stripped is None else stripped,
        )


def _publish_tables(
    context: DerivativesContext, rows: list[LesionRow], brain: BrainVolumes | None
) -> None:
    place = context.out_dir, context.visit
    if brain is not None:
        anatomy = OUTPUTS["anatomy"].path(*place, ".tsv")
        write_tsv(anatomy, tuple(LABEL_COLUMNS), label_rows(brain))
    dseg = OUTPUTS["labels"].path(*place, ".tsv")
    write_tsv(dseg, sidecars.dseg_columns(), sidecars.dseg_rows(rows))
    _publish_table(context, OUTPUTS["lesion_stats"], rows_to_table(rows))


def _publish_atlases(context: DerivativesContext, files: Iterable[str]) -> None:
    if not context.extras.atlases:
        return
    rows = [row for file in files for row in json.loads(Path(file).read_text("utf-8"))]
    _publish_table(context, OUTPUTS["atlases"], rows)


def _publish_table(
    context: DerivativesContext, output: Output, rows: Iterable[Mapping[str, Any]]
) -> None:
    place, columns = (context.out_dir, context.visit), output.sidecar()
    write_json(output.path(*place, ".json"), columns)
    write_tsv(output.path(*place, ".tsv"), tuple(columns), rows)


def _publish_intermediate(context: DerivativesContext, inputs: Mapping[str, Any]) -> None:
    if "intermediate_file" not in inputs:
        return
    visit = context.visit
    target = intermediate_path(context.out_dir, visit.participant, visit.session)
    publish(Path(inputs["intermediate_file"]), target, keep=True)


def _record(
    context: DerivativesContext, visit: Visit, rows: list[LesionRow], inputs: Mapping[str, Any]
) -> VisitRecord:
    """Build the record; ``visit`` has all contrasts, ``context`` only those that were used."""
    load, mask = summarise(rows), context.visit.lesion_mask
    brain = load_volume(inputs["brain_file"])
    rejected = sum(row.status == "rejected" for row in rows)
    point = {"threshold": context.threshold, "candidate_threshold": context.candidate_threshold}
    steps = zip(inputs["step_names"], inputs["step_notes"], strict=True)
    return VisitRecord(
        participant=context.visit.participant,
        session=context.visit.session,
        prefix=context.visit.prefix,
        status="ok",
        contrasts={name: _use(context, name, path) for name, path in visit.contrasts.items()},
        model=context.model,
        options={**context.options, **({} if mask else point)},
        brain_volume_ml=float((brain.data > 0).sum()) * brain.voxel_volume / 1000,
        lesion_load_ml=load.total_ml,
        lesion_count=load.n_lesions,
        candidate_count=None if mask else load.n_lesions + rejected,
        rejected_count=rejected,
        regions={
            region.label: (load.region_ml[region], load.region_count[region])
            for region in load.region_ml
        },
        flags=tuple(f"{step}: {note}" for step, step_notes in steps for note in step_notes),
        notes=context.visit.notes,
        timings_s=dict(zip(inputs["step_names"], inputs["step_seconds"], strict=True)),
        fingerprint=context.fingerprint,
        versions=context.versions,
        methods=context.methods,
        figures=_figure_labels(inputs.get("figure_files", [])),
        lesion_mask=context.uri(mask) if mask else "",
        exclude_masks=tuple(map(context.uri, context.visit.exclude_masks)),
        excluded_ml=inputs.get("excluded_ml"),
    )


def _figure_labels(files: Iterable[str]) -> tuple[str, ...]:
    """Read the ``desc-`` labels of pictures from their names."""
    return tuple(name_entities(Path(file).name)[0]["desc"] for file in files)


def _use(context: DerivativesContext, contrast: str, path: Path) -> ContrastUse:
    x, y, z = check_header(path).spacing
    name = path.absolute().relative_to(context.bids_dir.absolute()).as_posix()
    used = contrast in context.visit.contrasts
    read = context.model.contrasts if context.model else ()
    note = "" if not read or contrast in read else "the segmenter does not read it"
    if not used:
        note = "could not be aligned with FLAIR"
    return ContrastUse(name, (round(x, 4), round(y, 4), round(z, 4)), used, note)
