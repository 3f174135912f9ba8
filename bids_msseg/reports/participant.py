"""Page of one participant with all visits, built from the files in OUT."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from bids_msseg.bids.derivatives import OUTPUTS
from bids_msseg.bids.order import HINT
from bids_msseg.bids.paths import logs_dir, report_path
from bids_msseg.bids.record import VisitRecord, in_visit_order, read_records, recorded_visit
from bids_msseg.bids.visit import CONTRASTS
from bids_msseg.errors import NoInputError
from bids_msseg.lesions.regions import REGION_LABELS, disseminated_in_space
from bids_msseg.models.brain_volumes import MEASURES
from bids_msseg.reports import page
from bids_msseg.reports.changes import read_changes
from bids_msseg.reports.check import check_page
from bids_msseg.reports.images.drawing import FigureView, read_figures, view_figure
from bids_msseg.reports.images.volumes import Scene, read_scene
from bids_msseg.reports.methods import references
from bids_msseg.reports.qc import FORMAT, mask_digest
from bids_msseg.reports.tables import Row, Table, arrange, read_tsv
from bids_msseg.reports.text import MISSING, decimal, millilitres, readable

FRACTION_DIGITS = 4


@dataclass(frozen=True, slots=True)
class RegionView:
    """One region of the load bar; ``percent`` is its share of the total load."""

    key: str
    name: str
    load_ml: float | None
    count: int | None
    percent: float


@dataclass(frozen=True, slots=True)
class ContrastView:
    """One row of the table of contrasts; ``use`` describes whether it was used."""

    name: str
    file: str
    spacing_mm: tuple[float, float, float] | None
    use: str


@dataclass(frozen=True, slots=True)
class LesionView:
    """One row of the lesion table: displayed cells, and values as in the TSV file."""

    cells: tuple[str, ...]
    index: str
    status: str
    volume_mm3: str
    mm: str  # a point inside the lesion, "x y z" in mm; empty if unknown


@dataclass(frozen=True, slots=True)
class VisitView:
    """One visit as the template of the participant page shows it."""

    record: VisitRecord
    anchor: str
    title: str
    percent_of_brain: float | None
    regions: tuple[RegionView, ...]
    disseminated: bool | None  # as in McDonald 2017
    contrasts: tuple[ContrastView, ...]
    used: str  # contrasts that the networks used, as in FLAIR+T1w
    figures: Mapping[str, FigureView]
    lesions: Table | None
    rejected: Table | None
    rows: Mapping[str, tuple[LesionView, ...]]  # of both tables, by status
    scene: Scene  # without layers if images are missing
    mask_sha256: str  # of the mask to which QC decisions apply
    crashes: tuple[tuple[str, str], ...]
    table_file: str | None
    brain: tuple[tuple[str, str], ...]
    atlas_file: str | None

    @property
    def images(self) -> tuple[str, ...]:
        """Contrasts of the viewer, FLAIR first."""
        return tuple(layer.name for layer in self.scene.layers if layer.name in CONTRASTS)

    @property
    def overlays(self) -> tuple[str, ...]:
        """Images that the viewer can overlay on a contrast."""
        return tuple(layer.name for layer in self.scene.layers if layer.name not in CONTRASTS)


@dataclass(frozen=True, slots=True)
class OrderView:
    """Order of the finished visits: sessions, source or reason if unknown, and a hint."""

    sessions: tuple[str, ...]
    source: str
    known: bool
    hint: str


def write_participant_page(
    out_dir: Path, participant: str, *, records: Iterable[VisitRecord] | None = None
) -> Path:
    """Write ``OUT/sub-<label>.html`` with all visits of one participant, from files in OUT.

    Raises NoInputError if nothing is recorded, CannotCreateError if the page cannot be written.
    """
    target = report_path(out_dir, participant)
    all_records = read_records(out_dir, participant) if records is None else records
    participant_records = in_visit_order(
        record for record in all_records if record.participant == participant
    )
    if not participant_records:
        raise NoInputError(
            f"no results of sub-{participant} found",
            hint="run the participant level for this participant first",
        )
    visits = [_view(out_dir, record) for record in participant_records]
    html = page.render(
        "participant.html",
        participant=f"sub-{participant}",
        visits=visits,
        changes=read_changes(out_dir, participant_records),
        order=order_view(participant_records),
        check=check_page(out_dir),
        scripts=_scripts(visits),
        qc_format=FORMAT,
        references=references,
    )
    return page.save(target, html)


def order_view(records: Sequence[VisitRecord]) -> OrderView | None:
    """Summarise the order of visits; None with a single finished visit, or without an order."""
    ordered = [record for record in records if record.order_source]
    if not ordered:
        return None
    known = all(record.visit_number is not None for record in ordered)
    sessions = tuple(str(record.session) for record in ordered)
    return OrderView(sessions, ordered[0].order_source, known, "" if known else HINT)


def anchor_of(record: VisitRecord) -> str:
    """Return the anchor of a visit on its participant's page."""
    return "visit" if record.session is None else f"ses-{record.session}"


def _view(out_dir: Path, record: VisitRecord) -> VisitView:
    table = OUTPUTS["lesion_stats"].path(out_dir, recorded_visit(record), ".tsv")
    rows = read_tsv(table) if record.prefix else []
    scene = _scene(out_dir, record)
    # a table without status contains kept lesions only
    by_status = {
        status: [row for row in rows if row.get("status", "kept") == status]
        for status in ("kept", "rejected")
    }
    tables = {status: arrange(status_rows) for status, status_rows in by_status.items()}
    return VisitView(
        record=record,
        anchor=anchor_of(record),
        title="Visit" if record.session is None else f"Session {record.session}",
        percent_of_brain=percent_of_brain(record),
        regions=_regions(record),
        disseminated=disseminated_in_space(
            {name: count for name, (_, count) in record.regions.items()}
        ),
        contrasts=_contrasts(record),
        used=contrasts_used(record),
        figures=_figures(out_dir, record),
        lesions=tables["kept"],
        rejected=tables["rejected"],
        rows={
            status: _rows(status_rows, tables[status], status, scene)
            for status, status_rows in by_status.items()
        },
        scene=scene,
        mask_sha256=mask_digest(out_dir, recorded_visit(record)) if record.prefix else "",
        crashes=tuple((Path(name).name, _link(name)) for name in record.crash_files),
        table_file=table.relative_to(out_dir).as_posix() if rows else None,
        brain=_brain(record),
        atlas_file=_atlas_file(out_dir, record),
    )


def _atlas_file(out_dir: Path, record: VisitRecord) -> str | None:
    path = OUTPUTS["atlases"].path(out_dir, recorded_visit(record), ".tsv")
    exists = bool(record.prefix) and path.is_file()
    return path.relative_to(out_dir).as_posix() if exists else None


def _brain(record: VisitRecord) -> tuple[tuple[str, str], ...]:
    """List name and value of every brain measure of a visit; empty if unknown."""
    views = []
    for measure in MEASURES if record.brain_measures else ():
        value = record.brain_measures.get(measure.name)
        text = f"{millilitres(value)} mL" if measure.units else decimal(value, FRACTION_DIGITS)
        views.append((readable(measure.name.removesuffix("_ml")), text))
    return tuple(views)


def _scene(out_dir: Path, record: VisitRecord) -> Scene:
    """Read the images of the viewer; all contrasts in OUT if the record names none."""
    if not record.prefix:
        return Scene()
    return read_scene(out_dir, recorded_visit(record), _used(record) or CONTRASTS)


def _rows(
    rows: Sequence[Row], table: Table | None, status: str, scene: Scene
) -> tuple[LesionView, ...]:
    """Combine each row of a table with a point inside its lesion."""
    views = []
    for row, cells in zip(rows, table.rows if table else (), strict=True):
        index = row.get("index", MISSING)
        point = scene.points.get((status, int(index))) if index.isdecimal() else None
        coordinates = "" if point is None else " ".join(f"{value:g}" for value in point)
        views.append(LesionView(cells, index, status, row.get("volume_mm3", MISSING), coordinates))
    return tuple(views)


def _scripts(visits: Iterable[VisitView]) -> tuple[Markup, ...]:
    """Return the scripts that the page needs: viewer for images, QC for a lesion mask."""
    with_images = any(visit.scene.layers for visit in visits)
    with_mask = any(visit.mask_sha256 for visit in visits)
    names = ["vendor/niivue.umd.js", "templates/viewer.js"] * with_images
    names += ["templates/qc.js"] * with_mask
    return tuple(page.asset(name) for name in names)


def percent_of_brain(record: VisitRecord) -> float | None:
    """Return the lesion load in per cent of the brain volume; None if either is unknown."""
    if record.lesion_load_ml is None or not record.brain_volume_ml:
        return None
    return 100 * record.lesion_load_ml / record.brain_volume_ml


def contrasts_used(record: VisitRecord) -> str:
    """Join the contrasts that the networks used, such as ``FLAIR+T1w``."""
    return "+".join(_used(record)) or MISSING


def _used(record: VisitRecord) -> tuple[str, ...]:
    return tuple(name for name, use in record.contrasts.items() if use.used)


def _regions(record: VisitRecord) -> tuple[RegionView, ...]:
    standard = [label for label in REGION_LABELS if label in record.regions]
    names = standard + [name for name in record.regions if name not in standard]
    total_ml = sum(load or 0.0 for load, _ in record.regions.values())
    views = []
    for name in names:
        load, count = record.regions[name]
        percent = 100 * (load or 0.0) / total_ml if total_ml else 0.0
        key = name if name in standard else "elsewhere"
        views.append(RegionView(key, readable(name), load, count, percent))
    return tuple(views)


def _contrasts(record: VisitRecord) -> tuple[ContrastView, ...]:
    views = []
    for name in dict.fromkeys((*CONTRASTS, *record.contrasts)):
        if name in record.contrasts:
            use = record.contrasts[name]
            use_text = "used" if use.used else "not used"
            use_text += f": {use.note}" if use.note else ""
            views.append(ContrastView(name, use.file, use.spacing_mm, use_text))
        elif record.contrasts:
            views.append(ContrastView(name, "", None, "missing"))
    return tuple(views)


def _figures(out_dir: Path, record: VisitRecord) -> dict[str, FigureView]:
    if not record.prefix:
        return {}
    stored = read_figures(out_dir, recorded_visit(record))
    return {kind: view_figure(kind, frames) for kind, frames in stored.items()}


def _link(name: str) -> str:
    """Link to a file below OUT; other paths link to the same name in the logs folder."""
    path = Path(name)
    inside = not path.is_absolute() and ".." not in path.parts
    return quote(path.as_posix() if inside else f"{logs_dir(Path()).as_posix()}/{path.name}")
