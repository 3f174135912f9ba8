"""Pairs of visits to compare, and names, results and summaries of their changes."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from bids_msseg import __version__
from bids_msseg.bids.derivatives import Output, transform
from bids_msseg.bids.files import lists_to_tuples
from bids_msseg.bids.paths import figure_path
from bids_msseg.bids.record import VisitRecord, recorded_visit
from bids_msseg.bids.record_values import Scalar
from bids_msseg.lesions.longitudinal.rows import CHANGES, ChangeRow, ChangeRule, count_changes

FIGURES: Final = ("changes", "changesLater", "changesEarlier")
"""``desc-`` labels of the pictures of a pair."""
CODES: Final = Output(
    "Change of each lesion since the visit before",
    {"space": "FLAIR", "seg": "changes", "suffix": "dseg"},
    (".nii.gz", ".tsv", ".json"),
)
"""Image of changes, the table of its values, and its sidecar."""
BRAIN_CHANGES: Final[Mapping[str, str]] = {
    "brain_parenchymal_fraction_change": "brain_parenchymal_fraction",
    "ventricles_change_ml": "ventricles_ml",
}
"""Differences of brain measures, later minus earlier, whose noise has not been measured."""


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
    """Paths of the results of a pair."""

    codes: Path  # image of changes on the later FLAIR
    labels: Path  # table that names the values of this image
    codes_sidecar: Path
    transform: Path  # from the earlier to the later FLAIR
    transform_sidecar: Path
    figures: tuple[Path, ...]  # in the order of FIGURES

    @property
    def all(self) -> tuple[Path, ...]:
        """All files of the pair."""
        images = (self.codes, self.labels, self.codes_sidecar)
        return (*images, self.transform, self.transform_sidecar, *self.figures)


@dataclass(frozen=True, slots=True)
class PairResult:
    """Changes between two visits, or why they could not be compared."""

    rows: tuple[ChangeRow, ...]
    centres_mm: tuple[tuple[float, float, float], ...]  # in the RAS+ world of the later FLAIR
    regions: tuple[str, ...]
    disagreement_mm: float  # between both directions of the registration
    border_sd_mm: float
    matched: int  # lesions seen at both visits
    notes: tuple[str, ...] = ()
    failure_reason: str = ""  # if not empty, there are no rows
    hint: str = ""

    def to_json(self) -> str:
        """Return the result as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> PairResult:
        """Read what :meth:`to_json` wrote."""
        content = json.loads(text)
        rows = tuple(ChangeRow(**lists_to_tuples(row)) for row in content.pop("rows"))
        centres = tuple((x, y, z) for x, y, z in content.pop("centres_mm"))
        return cls(rows=rows, centres_mm=centres, **lists_to_tuples(content))


def pairs_of(records: Iterable[VisitRecord]) -> tuple[VisitPair, ...]:
    """Pair every finished visit of a participant, in visit order, with the one before it."""
    finished = [
        record for record in records if record.status == "ok" and record.session is not None
    ]
    return tuple(VisitPair(*pair) for pair in pairwise(finished))


def pair_files(out_dir: Path, earlier: str, later: VisitRecord) -> PairFiles:
    """Return the paths of a pair; ``earlier`` is the session of the earlier visit."""
    visit = recorded_visit(later)
    codes, labels, codes_sidecar = CODES.paths(out_dir, visit)
    xfm, xfm_sidecar = transform(f"ses{earlier}FLAIR", "FLAIR").paths(out_dir, visit)
    figures = tuple(figure_path(out_dir, visit, desc, extension=".png") for desc in FIGURES)
    return PairFiles(codes, labels, codes_sidecar, xfm, xfm_sidecar, figures)


def pair_summary(pair: VisitPair, result: PairResult, fingerprint: str) -> dict[str, Scalar]:
    """Summarise a pair for the record of its later visit."""
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
    """Return why a pair failed; a later run retries it unless the ``fingerprint`` is the same."""
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
