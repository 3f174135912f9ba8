"""Pairs of visits to compare, and names, results and summaries of their changes.

The names of all files of a pair are defined here, the columns of its table in
:mod:`bids_msseg.bids.change_tables`. The counts of a pair are in the record of its later visit,
under ``changes``, for the group table.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from bids_msseg import __version__
from bids_msseg.bids.paths import figure_path, output_path
from bids_msseg.bids.record import VisitRecord
from bids_msseg.bids.record_values import Scalar
from bids_msseg.bids.visit import PREFIX_ENTITIES, Visit
from bids_msseg.lesions.longitudinal.rows import CHANGES, ChangeRow, ChangeRule, count_changes

FIGURES: Final = ("changes", "changesLater", "changesEarlier")
"""``desc-`` labels of the pictures of a pair."""
BRAIN_CHANGES: Final[Mapping[str, str]] = {
    "brain_parenchymal_fraction_change": "brain_parenchymal_fraction",
    "ventricles_change_ml": "ventricles_ml",
}
"""Differences of measures of the brain, later less earlier. Their noise is not measured yet; the
smallest difference that can be told from it belongs here."""


@dataclass(frozen=True, slots=True)
class VisitPair:
    """Two finished visits of one participant."""

    earlier: VisitRecord
    later: VisitRecord

    def fingerprint(self, rule: ChangeRule) -> str:
        """Return a digest of everything that the comparison depends on."""
        content = [self.earlier.fingerprint, self.later.fingerprint, __version__, asdict(rule)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def cautions(self) -> tuple[str, ...]:
        """List differences between the visits other than those due to the disease."""
        earlier, later = (_circumstances(record) for record in (self.earlier, self.later))
        return tuple(f"different {name}" for name in earlier if earlier[name] != later[name])


@dataclass(frozen=True, slots=True)
class PairFiles:
    """Paths of the results of a pair.

    ``codes`` is the image of changes on the later FLAIR, ``labels`` the table that names its
    values. ``transform`` maps the earlier to the later FLAIR. ``figures`` are in the order of
    :data:`FIGURES`.
    """

    codes: Path
    labels: Path
    codes_sidecar: Path
    transform: Path
    transform_sidecar: Path
    figures: tuple[Path, ...]

    @property
    def all(self) -> tuple[Path, ...]:
        """All files of the pair."""
        images = (self.codes, self.labels, self.codes_sidecar)
        return (*images, self.transform, self.transform_sidecar, *self.figures)


@dataclass(frozen=True, slots=True)
class PairResult:
    """Changes between two visits, or why they could not be compared.

    ``centres_mm`` are (x, y, z) in the RAS+ world of the later FLAIR; ``disagreement_mm`` is that
    of both directions of the registration. ``matched`` counts lesions seen at both visits. If
    ``failure_reason`` is not empty, the visits could not be compared and there are no rows.
    """

    rows: tuple[ChangeRow, ...]
    centres_mm: tuple[tuple[float, float, float], ...]
    regions: tuple[str, ...]
    disagreement_mm: float
    border_sd_mm: float
    matched: int
    notes: tuple[str, ...] = ()
    failure_reason: str = ""
    hint: str = ""

    def to_json(self) -> str:
        """Return the result as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> PairResult:
        """Read what :meth:`to_json` wrote."""
        content = json.loads(text)
        rows = tuple(ChangeRow(**_tuples(row)) for row in content.pop("rows"))
        centres = tuple((x, y, z) for x, y, z in content.pop("centres_mm"))
        return cls(rows=rows, centres_mm=centres, **_tuples(content))


def pairs_of(records: Iterable[VisitRecord]) -> tuple[VisitPair, ...]:
    """Pair every finished visit with the finished one before it.

    Expects the records of one participant in visit order. Ignores visits that failed, were skipped
    or have no session.

    Examples
    --------
    >>> states = {"1": "ok", "2": "failed", "3": "ok"}
    >>> records = [VisitRecord("01", ses, f"sub-01_ses-{ses}", s) for ses, s in states.items()]
    >>> [(pair.earlier.session, pair.later.session) for pair in pairs_of(records)]
    [('1', '3')]
    """
    finished = [
        record for record in records if record.status == "ok" and record.session is not None
    ]
    return tuple(VisitPair(*pair) for pair in pairwise(finished))


def recorded_visit(record: VisitRecord) -> Visit:
    """Rebuild a visit for the path functions from a record; it has no images.

    Examples
    --------
    >>> recorded_visit(VisitRecord("01", "1", "sub-01_ses-1_run-02", "ok")).prefix
    'sub-01_ses-1_run-02'
    """
    pairs = [part.partition("-") for part in record.prefix.split("_")]
    entities = {name: value for name, _, value in pairs if name in PREFIX_ENTITIES}
    return Visit(record.participant, record.session, Path(), entities=entities)


def pair_files(out_dir: Path, earlier: str, later: VisitRecord) -> PairFiles:
    """Return the paths of a pair; ``earlier`` is the session of the earlier visit.

    Examples
    --------
    >>> files = pair_files(Path("/out"), "1", VisitRecord("01", "2", "sub-01_ses-2", "ok"))
    >>> files.codes.name
    'sub-01_ses-2_space-FLAIR_seg-changes_dseg.nii.gz'
    >>> files.transform.name
    'sub-01_ses-2_from-ses1FLAIR_to-FLAIR_mode-image_xfm.txt'
    """
    visit = recorded_visit(later)

    def codes(extension: str) -> Path:
        return output_path(
            out_dir, visit, space="FLAIR", seg="changes", suffix="dseg", extension=extension
        )

    def transform(extension: str) -> Path:
        return output_path(
            out_dir,
            visit,
            from_=f"ses{earlier}FLAIR",
            to="FLAIR",
            mode="image",
            suffix="xfm",
            extension=extension,
        )

    figures = tuple(figure_path(out_dir, visit, desc, extension=".png") for desc in FIGURES)
    return PairFiles(
        codes(".nii.gz"),
        codes(".tsv"),
        codes(".json"),
        transform(".txt"),
        transform(".json"),
        figures,
    )


def pair_summary(pair: VisitPair, result: PairResult, fingerprint: str) -> dict[str, Scalar]:
    """Summarise a pair for the record of its later visit.

    Contains ``compared_with``, the counts ``n_<change>``, volumes in mL, noise in mm and
    :data:`BRAIN_CHANGES`.
    """
    counts = count_changes(result.rows)
    gained, lost = (
        sum(getattr(row, name) for row in result.rows if row.change == change) / 1000
        for name, change in (("gained_mm3", "enlarging"), ("lost_mm3", "shrinking"))
    )
    return {
        "compared_with": pair.earlier.session,
        "fingerprint": fingerprint,
        **{f"n_{change}": counts[change].lesions for change in CHANGES},
        "new_ml": counts["new"].after_ml,
        "enlarging_gained_ml": gained,
        "shrinking_lost_ml": lost,
        "resolved_ml": counts["resolved"].before_ml,
        "border_sd_mm": result.border_sd_mm,
        "registration_disagreement_mm": result.disagreement_mm,
        "lesions_at_both": result.matched,
        **{name: _brain_change(pair, measure) for name, measure in BRAIN_CHANGES.items()},
        "notes": "; ".join((*pair.cautions(), *result.notes)),
    }


def _brain_change(pair: VisitPair, measure: str) -> float | None:
    """Return the change of a brain measure; None if a value is unknown or implausible."""
    records = (pair.earlier, pair.later)
    before, after = (record.brain_measures.get(measure, math.nan) for record in records)
    plausible = all(record.anatomy_implausible == () for record in records) and math.isfinite(
        after - before
    )
    return after - before if plausible else None


def failed_summary(
    pair: VisitPair, reason: str, hint: str, fingerprint: str = ""
) -> dict[str, Scalar]:
    """Return why a pair could not be compared, for the record of its later visit.

    With a ``fingerprint``, a later run tries again only if the fingerprint has changed; without
    one, it always tries again.
    """
    attempted = {"fingerprint": fingerprint} if fingerprint else {}
    return {"compared_with": pair.earlier.session, **attempted, "failed": reason, "hint": hint}


def _circumstances(record: VisitRecord) -> dict[str, object]:
    """Return properties that must be equal for changes to be due to the disease."""
    flair = record.contrasts.get("FLAIR")
    return {
        "models": None if record.lesion_mask else record.model and record.model.sha256,
        "sources of the lesion masks": record.lesion_mask.rpartition(":")[0],
        "use of exclusion masks": bool(record.exclude_masks),
        "thresholds": record.options.get("threshold"),
        "contrasts": tuple(name for name, use in record.contrasts.items() if use.used),
        "voxels of FLAIR": flair and tuple(round(edge, 1) for edge in flair.spacing_mm),
    }


def _tuples(content: Mapping[str, Any]) -> dict[str, Any]:
    """Convert lists to tuples, because JSON has no tuples."""
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in content.items()
    }
