"""Changes between the visits of a participant, as displayed on the participant page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bids_msseg.bids.change_tables import LEVELS
from bids_msseg.bids.changes import BRAIN_CHANGES, pair_files
from bids_msseg.bids.paths import changes_path
from bids_msseg.bids.record import VisitRecord
from bids_msseg.bids.record_values import Scalar
from bids_msseg.reports.images.drawing import FigureView, read_frame, view_figure
from bids_msseg.reports.tables import Heading, Row, Table, arrange, read_tsv
from bids_msseg.reports.text import counted, millilitres

CHANGED = ("new", "enlarging", "shrinking", "resolved")
HEADINGS = (
    Heading("change", "", ("change",), None),
    Heading("region", "", ("region",), None),
    Heading("volume before", "mm³", ("before_mm3",), 0),
    Heading("volume after", "mm³", ("after_mm3",), 0),
    Heading("difference", "mm³", ("change_mm3",), 0),
    Heading("smallest detectable change", "mm³", ("smallest_detectable_change_mm3",), 0),
    Heading("gained", "mm³", ("gained_mm3",), 0),
    Heading("lost", "mm³", ("lost_mm3",), 0),
    Heading("FLAIR change", "SD", ("flair_change_sd",), 1),
    Heading("reason", "", ("reason",), None),
    Heading("no. before", "", ("lesions_before",), None),
    Heading("no. after", "", ("lesions_after",), None),
    Heading("centroid x, y, z", "mm", ("centroid_x", "centroid_y", "centroid_z"), 0),
)


@dataclass(frozen=True, slots=True)
class ChangesView:
    """Changes between a pair of visits, as the participant page shows them."""

    anchor: str
    title: str
    numbers: tuple[tuple[str, int, str], ...]  # kind of change, count, volume text
    failed: str  # empty unless the comparison failed, as the hint
    hint: str
    cautions: tuple[str, ...]
    noise: str
    brain: str
    pictures: FigureView | None  # of the failed alignment if the comparison failed
    changed: Table | None
    others: Table | None  # stable and unclear lesions
    table_file: str
    levels: Mapping[str, str]  # definitions of the kinds


def read_changes(out_dir: Path, records: Iterable[VisitRecord]) -> tuple[ChangesView, ...]:
    """Collect the changes of each visit of a participant, in visit order, since an earlier one."""
    views = []
    for record in records:
        if record.status == "ok" and record.changes.get("compared_with") is not None:
            table = changes_path(out_dir, record.participant, ".tsv")
            rows = [
                row
                for row in read_tsv(table)
                if row.get("session_after") == f"ses-{record.session}"
            ]
            views.append(_view(out_dir, record, rows, table.relative_to(out_dir).as_posix()))
    return tuple(views)


def _view(out_dir: Path, record: VisitRecord, rows: Sequence[Row], table_file: str) -> ChangesView:
    changes = record.changes
    earlier = str(changes["compared_with"])
    failed = str(changes.get("failed") or "")
    notes = str(changes.get("notes") or "")
    shown = () if failed else rows
    return ChangesView(
        anchor=f"changes-{record.session}",
        title=f"From session {earlier} to session {record.session}",
        numbers=() if failed else _numbers(changes),
        failed=failed,
        hint=str(changes.get("hint") or ""),
        cautions=tuple(note for note in notes.split("; ") if note),
        noise="" if failed else _noise(changes),
        brain=_brain(changes),
        pictures=_pictures(pair_files(out_dir, earlier, record).figures, failed=bool(failed)),
        changed=arrange([row for row in shown if row.get("change") in CHANGED], HEADINGS),
        others=arrange([row for row in shown if row.get("change") not in CHANGED], HEADINGS),
        table_file=table_file,
        levels=LEVELS,
    )


def _number(value: Scalar) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0


def _numbers(changes: Mapping[str, Scalar]) -> tuple[tuple[str, int, str], ...]:
    """Return each kind of change with its number of lesions and their volume as text."""
    volumes = {
        "new": ("new_ml", ""),
        "enlarging": ("enlarging_gained_ml", "+"),
        "shrinking": ("shrinking_lost_ml", "−"),
        "resolved": ("resolved_ml", ""),
    }
    numbers = []
    for change, (name, sign) in volumes.items():
        count = int(_number(changes.get(f"n_{change}")))
        text = f"{sign}{millilitres(_number(changes.get(name)))} mL" if count else ""
        numbers.append((change, count, text))
    return tuple(numbers)


def _noise(changes: Mapping[str, Scalar]) -> str:
    lesions = counted(int(_number(changes.get("lesions_at_both"))), "lesion")
    border = _number(changes.get("border_sd_mm"))
    disagreement = _number(changes.get("registration_disagreement_mm"))
    return (
        f"Border noise: {border:.2f} mm (standard deviation without a change, estimated from "
        f"{lesions} at both visits and a prior). The two directions of the registration differ by "
        f"{disagreement:.2f} mm."
    )


def _brain(changes: Mapping[str, Scalar]) -> str:
    """Describe the changes of brain volumes; empty for failed pairs, which have none."""
    fraction, ventricles = (changes.get(name) for name in BRAIN_CHANGES)
    if fraction is None or ventricles is None:
        return ""
    return (
        f"Brain parenchymal fraction changed by {_number(fraction):+.4f}, ventricles by "
        f"{_number(ventricles):+.1f} mL. The noise of these differences has not been measured."
    )


def _pictures(paths: Sequence[Path], *, failed: bool) -> FigureView | None:
    """Read the pictures of a pair of visits; None if one is missing or damaged."""
    # a pair that could not be aligned has a picture of each visit, but none of changes
    changes, *visits = paths
    if failed and changes.exists():
        return None
    expected = visits[::-1] if failed else paths
    frames = [frame for path in expected if (frame := read_frame(path.stem, path))]
    return view_figure("changes", frames) if len(frames) == len(expected) else None
