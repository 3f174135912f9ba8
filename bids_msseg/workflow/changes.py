"""Comparing the visits of a participant, once all of them are finished."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nipype.interfaces.utility import Merge
from nipype.pipeline.engine import Node, Workflow

from bids_msseg.bids.changes import failed_summary, pair_files, pairs_of
from bids_msseg.bids.order import VisitOrder, order_sessions
from bids_msseg.bids.paths import changes_path
from bids_msseg.bids.record import (
    VisitRecord,
    in_visit_order,
    read_record,
    read_records_of,
    write_record,
)
from bids_msseg.lesions.longitudinal.rows import ChangeRule
from bids_msseg.nodes.changes import CompareVisits, PairContext
from bids_msseg.nodes.publish_changes import PublishChanges
from bids_msseg.reports.text import without_folders
from bids_msseg.workflow.execution import Execution
from bids_msseg.workflow.outcome import Failure
from bids_msseg.workflow.run import run_workflows

LOGGER = logging.getLogger("bids_msseg")
_GATHERED = ("result", "codes", "transform")


@dataclass(frozen=True, slots=True)
class ChangeOutcome:
    """Result of comparing the visits of one participant."""

    participant: str
    pairs: int  # compared or, after a failure, to compare; without those that were not aligned
    failure: Failure | None = None


def init_changes_wf(contexts: Sequence[PairContext], *, seed: int = 0) -> Workflow:
    """Build the workflow that compares the visits of one participant, in visit order."""
    participant = contexts[0].pair.later.participant.replace("+", "_plus_")
    workflow = Workflow(f"sub_{participant}_changes")
    compared = []
    for number, context in enumerate(contexts, start=1):
        step = CompareVisits(context=context, fingerprint=context.fingerprint, seed=seed)
        compared.append(Node(step, name=f"compare_{number}", mem_gb=2.0))
    last = PublishChanges(
        contexts=list(contexts), fingerprints=[context.fingerprint for context in contexts]
    )
    publish = Node(last, name="publish", mem_gb=0.5)
    for what in _GATHERED:
        _gather(workflow, compared, f"{what}_file", publish, f"{what}_files")
    _gather(workflow, compared, "figure_files", publish, "figure_files")
    return workflow


def _gather(
    workflow: Workflow, nodes: Sequence[Node], output: str, end: Node, target: str
) -> None:
    merge = Node(
        Merge(len(nodes), no_flatten=True), name=f"list_{output}", run_without_submitting=True
    )
    for number, node in enumerate(nodes, start=1):
        workflow.connect(node, output, merge, f"in{number}")
    workflow.connect(merge, "out", end, target)


def compare_participants(
    participants: Iterable[str],
    execution: Execution,
    *,
    seed: int = 0,
    versions: Mapping[str, str] | None = None,
    rule: ChangeRule | None = None,
    bids_dir: Path | None = None,
    session_order: Sequence[str] = (),
) -> list[ChangeOutcome]:
    """Compare the finished visits of participants where needed; remove obsolete results."""
    todo: dict[str, list[PairContext]] = {}
    names = tuple(dict.fromkeys(participants))
    records_by_name = read_records_of(execution.out_dir, names)
    for participant in names:
        records = records_by_name.get(participant, ())
        order = _order(bids_dir, participant, records, session_order)
        records = _record_order(execution.out_dir, records, participant, order)
        contexts = [
            PairContext(execution.out_dir, pair, rule or ChangeRule(), versions or {})
            for pair in pairs_of(record for record in records if record.visit_number is not None)
        ]
        _remove_obsolete(execution.out_dir, records, contexts)
        if not all(_is_compared(context) for context in contexts):
            todo[f"sub-{participant}"] = contexts
    outcomes: list[ChangeOutcome] = []
    keys = list(todo)
    for start in range(0, len(keys), execution.chunk):
        group = keys[start : start + execution.chunk]
        workflows = {key: init_changes_wf(todo[key], seed=seed) for key in group}
        failures = run_workflows(workflows, execution)
        outcomes += [_outcome(todo[key], failures[key]) for key in group]
    return outcomes


def _order(
    bids_dir: Path | None,
    participant: str,
    records: Iterable[VisitRecord],
    session_order: Sequence[str],
) -> VisitOrder:
    """Order the finished visits of a participant that are still in the dataset."""
    top = None if bids_dir is None else bids_dir / f"sub-{participant}"
    flairs = {
        record.session: Path(record.contrasts["FLAIR"].file).name
        if "FLAIR" in record.contrasts
        else ""
        for record in records
        if record.status == "ok"
        and record.session is not None
        # records of sessions that were removed from the dataset stay in OUT
        and (top is None or (top / f"ses-{record.session}").is_dir())
    }
    return order_sessions(bids_dir, participant, flairs, user_order=session_order)


def _record_order(
    out_dir: Path, records: Sequence[VisitRecord], participant: str, order: VisitOrder
) -> tuple[VisitRecord, ...]:
    """Write the position of each visit in time to its record; log it if it is new."""
    updated = [_with_order(record, order) for record in records]
    changed = [new for old, new in zip(records, updated, strict=True) if new != old]
    for record in changed:
        stored = read_record(out_dir, record.participant, record.session)
        # another run may be processing a visit that this run did not select
        if stored and (stored.status, stored.fingerprint) == (record.status, record.fingerprint):
            write_record(out_dir, record)
    if changed and len(order.sessions) > 1:
        LOGGER.log(order.level, order.describe(participant))
    return in_visit_order(updated)


def _with_order(record: VisitRecord, order: VisitOrder) -> VisitRecord:
    finished = record.status == "ok" and record.session in order.sessions
    if not finished or len(order.sessions) < 2:
        return replace(record, visit_number=None, order_source="")
    number = order.sessions.index(str(record.session)) + 1 if order.known else None
    return replace(record, visit_number=number, order_source=order.description)


def _later_record(context: PairContext) -> VisitRecord | None:
    later = context.pair.later
    return read_record(context.out_dir, later.participant, later.session)


def _is_compared(context: PairContext) -> bool:
    """Return whether OUT holds all files of a comparison, or of a failed attempt."""
    record = _later_record(context)
    if record is None or record.changes.get("fingerprint") != context.fingerprint:
        return False
    files = context.files.figures[1:] if record.changes.get("failed") else context.files.all
    tables = _tables(context.out_dir, context.pair.later.participant)
    return all(path.is_file() for path in (*files, *tables))


def _remove_obsolete(
    out_dir: Path, records: Sequence[VisitRecord], contexts: Sequence[PairContext]
) -> None:
    """Remove the results of obsolete pairs, for example after a visit has failed."""
    expected = {context.pair.later.key: context.pair.earlier.session for context in contexts}
    for record in records:
        compared_session = record.changes.get("compared_with")
        if compared_session is None or expected.get(record.key) == compared_session:
            continue
        _remove(pair_files(out_dir, str(compared_session), record).all)
        write_record(out_dir, replace(record, changes={}))
    if records and not contexts:
        _remove(_tables(out_dir, records[0].participant))


def _tables(out_dir: Path, participant: str) -> list[Path]:
    return [changes_path(out_dir, participant, extension) for extension in (".tsv", ".json")]


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _outcome(contexts: Sequence[PairContext], failure: Failure) -> ChangeOutcome:
    participant = contexts[0].pair.later.participant
    if all(_is_compared(context) for context in contexts):
        failed = sum(_log_failed(context) for context in contexts)
        return ChangeOutcome(participant, len(contexts) - failed)
    for context in contexts:
        record = _later_record(context)
        if record is not None and record.status == "ok" and not _is_compared(context):
            reason, hint = (without_folders(text) for text in (failure.message, failure.hint))
            # results of another comparison must not stand beside the failure of this one
            _remove(context.files.all)
            changes = failed_summary(context.pair, reason, hint)
            write_record(context.out_dir, replace(record, changes=changes))
    return ChangeOutcome(participant, len(contexts), failure)


def _log_failed(context: PairContext) -> bool:
    """Log why two visits could not be aligned; return whether this is the case."""
    record = _later_record(context)
    if record is None or not record.changes.get("failed"):
        return False
    LOGGER.warning(
        "%s is not compared with ses-%s: %s\n  hint: %s",
        record.key,
        *(record.changes.get(name) for name in ("compared_with", "failed", "hint")),
    )
    return True
