"""Pages of participants, and the text about the methods."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bids_msseg.app.selection import other_segmenter, package_versions
from bids_msseg.bids.paths import logs_dir, record_path, report_path
from bids_msseg.bids.record import read_records
from bids_msseg.config import RunConfig
from bids_msseg.io.atomic import write_atomic
from bids_msseg.models.weights import ModelHeader
from bids_msseg.reports.methods import methods_paragraph, references
from bids_msseg.workflow.locks import VisitLocks, note_running

if TYPE_CHECKING:
    from bids_msseg.bids.visit import Selection, Skipped, Visit
    from bids_msseg.nodes.context import DerivativesContext

LOGGER = logging.getLogger("bids_msseg")


def write_citation(config: RunConfig, header: ModelHeader) -> Path:
    """Write the methods text and its references to ``OUT/logs/CITATION.md``."""
    requested = config.processing.threshold
    threshold = header.point.threshold if requested is None else requested
    segmenter = other_segmenter(config, header)
    text = methods_paragraph(
        ["FLAIR", "T1w", "T2w"],
        model=header.name if config.with_networks else "",
        sha256=header.sha256,
        threshold=threshold,
        min_lesion_volume=config.processing.min_lesion_volume,
        versions=package_versions(),
        masks=", ".join(config.query.lesion_masks),
        excluded=", ".join(config.query.exclude_masks),
        segmenter=segmenter,
    )
    target = logs_dir(config.output_dir) / "CITATION.md"
    reference_list = "\n".join(f"- {reference}" for reference in references(segmenter))
    content = f"# Methods\n\n{text}\n\n# References\n\n{reference_list}\n"
    if not target.is_file() or target.read_text(encoding="utf-8") != content:
        write_atomic(target, content)
    return target


def write_pages(out_dir: Path, participants: Sequence[str]) -> None:
    """Write the pages of participants, in turn with other runs."""
    from bids_msseg.reports.participant import write_participant_page

    logs_dir(out_dir).mkdir(parents=True, exist_ok=True)
    with VisitLocks([logs_dir(out_dir)]) as locks:
        for participant in participants:
            locks.acquire(f"page of {participant}", wait=True)
            records = note_running(out_dir, read_records(out_dir, participant), locks)
            page = write_participant_page(out_dir, participant, records=records)
            locks.release(f"page of {participant}")
            LOGGER.info("report: %s", page)


def participants_with_new_page(
    out_dir: Path, selection: Selection, processed: Sequence[DerivativesContext]
) -> list[str]:
    """List participants whose page must be written: just processed, or page outdated."""
    # file times alone are not enough: the clock may have been set back
    visits = (context.visit for context in processed)
    # a run that stops at the first crash has left no record of those it did not reach
    updated = {
        visit.participant
        for visit in visits
        if record_path(out_dir, visit.participant, visit.session).is_file()
    }
    outdated = set(_with_old_page(out_dir, selection))
    all_visits: list[Visit | Skipped] = [*selection.visits, *selection.skipped]
    return [
        name
        for name in dict.fromkeys(visit.participant for visit in all_visits)
        if name in updated | outdated
    ]


def _with_old_page(out_dir: Path, selection: Selection) -> list[str]:
    """List the participants of this run whose page is missing or older than a record."""
    newest: dict[str, int] = {}
    all_visits: list[Visit | Skipped] = [*selection.visits, *selection.skipped]
    for visit in all_visits:
        record = record_path(out_dir, visit.participant, visit.session)
        if record.is_file():
            modified = record.stat().st_mtime_ns
            newest[visit.participant] = max(modified, newest.get(visit.participant, 0))
    pages = {name: report_path(out_dir, name) for name in newest}
    return [
        name
        for name, page in pages.items()
        if not page.is_file() or page.stat().st_mtime_ns < newest[name]
    ]
