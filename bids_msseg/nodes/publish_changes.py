"""The node that writes the changes between the visits of a participant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nipype.interfaces.base import File, traits

from bids_msseg.bids.change_tables import change_dictionary, change_rows, code_table, codes_sidecar
from bids_msseg.bids.changes import FIGURES, PairFiles, PairResult, failed_summary, pair_summary
from bids_msseg.bids.derivatives import preprocessed
from bids_msseg.bids.files import publish, write_json, write_tsv
from bids_msseg.bids.paths import changes_path
from bids_msseg.bids.record import read_record, recorded_visit, write_record
from bids_msseg.bids.sidecars import bids_uri, xfm_sidecar
from bids_msseg.errors import DataError
from bids_msseg.nodes.base import Step, StepInputs, StepOutputs
from bids_msseg.nodes.changes import PairContext


class _PublishInputs(StepInputs):
    contexts = traits.Any(mandatory=True, nohash=True)
    fingerprints = traits.List(traits.Str, mandatory=True)
    result_files = traits.List(traits.Str, mandatory=True)
    codes_files = traits.List(traits.Str, mandatory=True)
    transform_files = traits.List(traits.Str, mandatory=True)
    figure_files = traits.List(traits.List(traits.Str), mandatory=True)


class _PublishOutputs(StepOutputs):
    table_file = File()


class PublishChanges(Step):
    """Move the changes between a participant's visits to their final names."""

    input_spec = _PublishInputs
    output_spec = _PublishOutputs
    always_run = True  # nipype does not check for the files that it writes to OUT

    def work(self, folder: Path, **inputs: Any) -> dict[str, Any]:  # noqa: ARG002
        """Write images and table; the records, which mark completion, come last."""
        contexts: list[PairContext] = inputs["contexts"]
        texts = [Path(name).read_text(encoding="utf-8") for name in inputs["result_files"]]
        results = [PairResult.from_json(text) for text in texts]
        for index, (context, result) in enumerate(zip(contexts, results, strict=True)):
            if result.failure_reason:
                _remove_images(context.files)
            else:
                names = (inputs[what][index] for what in ("codes_files", "transform_files"))
                _publish_images(context, *map(Path, names))
            _publish_figures(context.files, inputs["figure_files"][index])
        table = _publish_table(contexts, results)
        for context, result in zip(contexts, results, strict=True):
            _update_record(context, result)
        return {"table_file": str(table)}


def _publish_images(context: PairContext, codes: Path, transform: Path) -> None:
    pair, files = context.pair, context.files
    session = pair.earlier.session or ""
    flairs = [
        preprocessed("FLAIR").path(context.out_dir, recorded_visit(record), ".nii.gz")
        for record in (pair.earlier, pair.later)
    ]
    sources = [bids_uri(path, {"": context.out_dir}) for path in flairs]
    write_json(files.codes_sidecar, codes_sidecar(pair, context.rule, sources))
    write_tsv(files.labels, ("index", "name", "meaning"), code_table())
    publish(codes, files.codes, keep=True)
    names = f"the FLAIR of session {session}", "FLAIR"
    sidecar = xfm_sidecar(*names, kind="rigid", sources=sources, software=context.versions)
    write_json(files.transform_sidecar, sidecar)
    publish(transform, files.transform, keep=True)


def _remove_images(files: PairFiles) -> None:
    """Remove the files of an earlier comparison, except for the pictures."""
    for path in files.all:
        if path not in files.figures:
            path.unlink(missing_ok=True)


def _publish_figures(files: PairFiles, figures: Sequence[str]) -> None:
    """Write the pictures, and remove remaining ones of an earlier comparison."""
    pictures = {Path(name).stem: Path(name) for name in figures}
    for desc, target in zip(FIGURES, files.figures, strict=True):
        if desc in pictures:
            publish(pictures[desc], target, keep=True)
        else:
            target.unlink(missing_ok=True)


def _publish_table(contexts: list[PairContext], results: list[PairResult]) -> Path:
    first = contexts[0]
    path = changes_path(first.out_dir, first.pair.later.participant, ".tsv")
    dictionary = change_dictionary()
    rows = [
        row
        for context, result in zip(contexts, results, strict=True)
        for row in change_rows(context.pair, result)
    ]
    write_json(path.with_suffix(".json"), dictionary)
    write_tsv(path, tuple(dictionary), rows)
    return path


def _update_record(context: PairContext, result: PairResult) -> None:
    """Add the summary to the later visit's record; DataError if it was processed meanwhile."""
    pair, later, fingerprint = context.pair, context.pair.later, context.fingerprint
    record = read_record(context.out_dir, later.participant, later.session)
    if record is None or record.fingerprint != later.fingerprint:
        raise DataError(
            f"{later.key} was processed again while it was compared",
            hint="run the same command again when the other run has ended",
        )
    summary = pair_summary(pair, result, fingerprint)
    if result.failure_reason:
        summary = failed_summary(pair, result.failure_reason, result.hint, fingerprint)
    write_record(context.out_dir, replace(record, changes=summary))
