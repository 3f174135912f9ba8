"""Selection of the visits of a run, their settings and fingerprints, and stale files in OUT."""

from __future__ import annotations

import importlib.metadata
import logging
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bids_msseg import __version__
from bids_msseg.app.extras import find_extras
from bids_msseg.bids.paths import intermediate_path, stale_outputs
from bids_msseg.bids.record import read_record
from bids_msseg.bids.record_values import ModelUse
from bids_msseg.config import RunConfig
from bids_msseg.errors import NothingSelectedError, UsageError, convert_os_error
from bids_msseg.lesions.mask_values import ANY
from bids_msseg.models.weights import ModelHeader, find_model, read_header
from bids_msseg.options import CASCADE
from bids_msseg.reports.text import listed, without_folders
from bids_msseg.spaces import FREESURFER
from bids_msseg.workflow.locks import VisitLocks

if TYPE_CHECKING:
    from bids_msseg.bids.visit import Selection, Visit
    from bids_msseg.nodes.context import DerivativesContext
    from bids_msseg.segmenters.base import Segmenter

LOGGER = logging.getLogger("bids_msseg")
NAMED_PACKAGES = ("bids_msseg", "nipype", "torch", "SimpleITK", "deepbet")


def select_visits(config: RunConfig) -> Selection:
    """Index the dataset, select the visits to process and log notes."""
    from bids_msseg.bids.query import find_visits

    query = config.query
    selection = find_visits(
        config.bids_dir,
        participants=query.participant_label,
        sessions=query.session_label,
        filters=query.bids_filters,
        database_dir=query.bids_database_dir,
        derivatives=_with_brain_masks(query.derivatives),
        lesion_masks=query.lesion_masks,
        exclude_masks=query.exclude_masks,
        ignore=query.ignore,
        skip_validation=query.skip_bids_validation,
    )
    selection = _without_excluded(selection, config)
    for note in selection.notes:
        LOGGER.warning(note)
    for visit in selection.visits:
        for note in visit.notes:
            LOGGER.info("%s: %s", visit.key, note)
    for skipped in selection.skipped:
        LOGGER.warning("%s skipped: %s", skipped.key, skipped.reason)
    return selection


def _with_brain_masks(derivatives: Mapping[str, Path]) -> dict[str, Path]:
    """Leave out the folder of FreeSurfer's subjects, which holds atlases."""
    return {name: folder for name, folder in derivatives.items() if name != FREESURFER}


def _without_excluded(selection: Selection, config: RunConfig) -> Selection:
    """Remove the participants that the user has excluded."""
    from bids_msseg.bids.index import list_participants

    excluded = set(config.query.exclude_participant_label)
    if not excluded:
        return selection
    visits = [visit for visit in selection.visits if visit.participant not in excluded]
    skipped = [visit for visit in selection.skipped if visit.participant not in excluded]
    if not visits and selection.visits:
        raise NothingSelectedError(
            "--exclude-participant-label excludes every selected visit",
            hint="exclude fewer participants",
        )
    # one that is there and was not selected is no mistake
    unknown = excluded - set(list_participants(config.bids_dir))
    notes = (
        f"--exclude-participant-label {label}: no such participant in the dataset"
        for label in sorted(unknown)
    )
    return replace(
        selection,
        visits=tuple(visits),
        skipped=tuple(skipped),
        notes=(*selection.notes, *notes),
    )


def is_visit_finished(config: RunConfig, context: DerivativesContext) -> bool:
    """Return whether an earlier run has written everything that this run would write."""
    from bids_msseg.workflow.resume import is_finished

    return is_finished(
        config.output_dir,
        context.visit,
        context.fingerprint,
        spaces=output_spaces(config),
        extras=context.extras,
    )


def collect_context(config: RunConfig, visit: Visit, header: ModelHeader) -> DerivativesContext:
    """Collect the information that the last node of a visit needs."""
    from bids_msseg.nodes.context import DerivativesContext
    from bids_msseg.pipeline.lesions import MASK_THRESHOLD
    from bids_msseg.workflow.resume import fingerprint

    processing = config.processing
    threshold = header.point.threshold if processing.threshold is None else processing.threshold
    if config.query.lesion_masks:
        threshold = MASK_THRESHOLD
    options = analysis_options(config, header)
    if not visit.exclude_masks:
        # masks of other visits do not make this one stale
        options.pop("exclude_masks", None)
    extras, notes = find_extras(config, visit)
    if not config.with_networks:
        notes += ("the anatomy is not measured: given masks replace the networks",)
    model_digest = _model_digest(config, header) if config.with_networks else ""
    digests = fingerprint(visit, options, model_digest, __version__, extras)
    segmenter = other_segmenter(config, header)
    model = segmenter or ModelUse(header.name, header.version, header.sha256)
    return DerivativesContext(
        visit=replace(visit, notes=(*visit.notes, *notes)),
        out_dir=config.output_dir,
        bids_dir=config.bids_dir,
        derivatives=config.query.datasets,
        model=model if config.with_networks else None,
        candidate_threshold=None if segmenter else header.point.candidate_threshold,
        threshold=threshold,
        min_lesion_volume=processing.min_lesion_volume,
        options={key: _scalar(value) for key, value in options.items()},
        fingerprint=digests.results,
        maps_fingerprint=digests.maps,
        versions=package_versions(),
        extras=extras,
    ).described()


def with_intermediate(context: DerivativesContext) -> DerivativesContext:
    """Let a visit start from an earlier run's intermediate results if they are valid."""
    from bids_msseg.nodes.intermediate import is_usable

    visit, out_dir = context.visit, context.out_dir
    archive = intermediate_path(out_dir, visit.participant, visit.session)
    digest = context.maps_fingerprint
    if not is_usable(archive, out_dir, fingerprint=digest, versions=context.versions):
        return context
    LOGGER.info("%s: thresholded again from intermediate results of an earlier run", visit.key)
    return replace(context, intermediate=archive)


def needs_networks(context: DerivativesContext) -> bool:
    """Return whether a visit runs a segmenter: with a lesion mask, only if filling needs it."""
    with_mask = context.visit.lesion_mask is not None
    return context.intermediate is None and (context.with_anatomy or not with_mask)


def analysis_options(config: RunConfig, header: ModelHeader) -> dict[str, Any]:
    """Return the options that affect results; files are named without their folders."""
    options = {**config.analysis_fingerprint_options(), "model": header.name}
    del options["segmenter_options"]
    if config.processing.segmenter == CASCADE:
        del options["segmenter"]
    texts = {name: options[name] for name in ("atlas", "output_spaces")}
    options |= {name: list(map(without_folders, texts[name])) for name in texts}
    for name in _unused(config):
        del options[name]
    masks = list(config.query.lesion_masks)
    if masks:
        options |= {"lesion_masks": masks, "mask_values": options["mask_values"] or [ANY]}
    if config.query.exclude_masks:
        options["exclude_masks"] = list(config.query.exclude_masks)
    return options


def _unused(config: RunConfig) -> tuple[str, ...]:
    """Return the names of options that have no effect with, or without, given masks."""
    if not config.query.lesion_masks:
        return ("mask_values",)
    return ("threshold",) if config.with_networks else ("threshold", "model", "fast")


def _scalar(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list) else value


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that affect results."""
    versions = {name: importlib.metadata.version(name) for name in NAMED_PACKAGES[1:]}
    return {NAMED_PACKAGES[0]: __version__, **versions, "Python": platform.python_version()}


def output_spaces(config: RunConfig) -> tuple[tuple[str, int | None], ...]:
    """Return name and resolution of every output space except grids of files."""
    spaces = config.processing.output_spaces
    return tuple((space.name, space.resolution) for space in spaces if not space.file)


def read_model_header(config: RunConfig) -> ModelHeader:
    """Read the header of the weights file that a run uses, or describe another segmenter."""
    segmenter = find_segmenter(config)
    if segmenter is not None:
        return segmenter.describe()
    return read_header(find_model(config.processing.model))


def find_segmenter(config: RunConfig) -> Segmenter | None:
    """Create the segmenter that replaces the cascade, None for the cascade; may raise errors."""
    processing = config.processing
    if processing.segmenter == CASCADE:
        if processing.segmenter_options:
            raise UsageError(
                "--segmenter-config cannot be combined with the segmenter cascade",
                hint="add --segmenter nnunet, samseg or command, or remove --segmenter-config",
            )
        return None
    flags = [f"--{name}" for name in ("model", "fast") if getattr(processing, name)]
    flags += ["--lesion-masks"] if config.query.lesion_masks else []
    if flags:
        raise UsageError(
            f"{' and '.join(flags)} cannot be combined with --segmenter {processing.segmenter}",
            hint="remove one of them; set options of the segmenter in the file of "
            "--segmenter-config",
        )
    from bids_msseg.segmenters.choose import open_segmenter

    return open_segmenter(processing.segmenter, processing.segmenter_options)


def other_segmenter(config: RunConfig, header: ModelHeader) -> ModelUse | None:
    """Describe the segmenter that replaces the cascade; return None for the cascade."""
    if config.processing.segmenter == CASCADE:
        return None
    return ModelUse(
        header.name,
        header.version,
        header.sha256,
        header.segmenter,
        header.licence,
        header.citation,
        header.contrasts,
    )


def _model_digest(config: RunConfig, header: ModelHeader) -> str:
    """Return the digest of the weights and their calibration, or of another segmenter."""
    if config.processing.segmenter != CASCADE:
        return header.sha256
    return header.sha256 + calibration_digest(config, header.sha256)


def calibration_digest(config: RunConfig, sha256: str) -> str:
    """Return the digest of the calibration of the weights; empty if there is none."""
    from bids_msseg.calibration import read_calibration

    return read_calibration(find_model(config.processing.model), sha256).digest


def handle_stale(
    config: RunConfig, contexts: Sequence[DerivativesContext], locks: VisitLocks
) -> None:
    """Report stale files of images that a visit no longer uses; remove them if requested."""
    for context in contexts:
        stale, key = find_stale_outputs(config, context.visit), context.visit.key
        if not stale:
            continue
        names = listed([path.name for path in stale])
        if not config.execution.clean_outputs:
            LOGGER.warning(
                "%s: results of images that are no longer used are in the output folder: %s\n"
                "  hint: use --clean-outputs to remove them",
                key,
                names,
            )
        elif _has_result(config, context) and locks.acquire(key):
            remove_files(stale)
            LOGGER.info("%s: removed results of images that are no longer used: %s", key, names)
        else:
            LOGGER.warning("%s: old results are kept until the visit is finished: %s", key, names)


def find_stale_outputs(config: RunConfig, visit: Visit) -> tuple[Path, ...]:
    """List the files in OUT that come from images which a visit no longer uses."""
    from bids_msseg.workflow.resume import as_used

    record = read_record(config.output_dir, visit.participant, visit.session)
    visit_as_used = visit if record is None else as_used(visit, record)
    return stale_outputs(config.output_dir, visit_as_used)


def _has_result(config: RunConfig, context: DerivativesContext) -> bool:
    """Return whether a visit is finished with the prefix and fingerprint of this run."""
    visit = context.visit
    record = read_record(config.output_dir, visit.participant, visit.session)
    expected = ("ok", visit.prefix, context.fingerprint)
    return record is not None and (record.status, record.prefix, record.fingerprint) == expected


def remove_files(paths: Iterable[Path]) -> None:
    """Remove files, which may be gone; raise CannotCreateError if one cannot be removed."""
    hint = "remove it yourself, or run without --clean-outputs"
    for path in paths:
        with convert_os_error(f"{path} cannot be removed", hint=hint):
            path.unlink(missing_ok=True)
