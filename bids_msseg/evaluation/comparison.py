"""Scores of held-out patients before and after a training, and assessment of improvement."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bids_msseg.evaluation.scoring import Score
from bids_msseg.lesions.comparison.bootstrap import MeanEstimate, estimate_mean

SHOWN: Final = {
    "dice": "Dice",
    "ppv": "PPV",
    "sensitivity": "sensitivity",
    "lesion_f1": "lesion F1",
}
BETTER: Final = "better"
NOT_BETTER: Final = "not shown to be better"
UNDETERMINED: Final = "undetermined"
YES, NO, UNKNOWN = "yes", "no", "not known"
FEWEST: Final = 2
"""With fewer held-out patients the improvement is undetermined."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Scores of one visit by the starting cascade and by one trained without this patient."""

    before: Score
    after: Score | None  # None if no patient could be held out
    in_training_data: str = NO  # whether the starting weights were trained on this patient

    @property
    def patient(self) -> str:
        """Participant label with its prefix, ``sub-<label>``."""
        return self.before.visit.partition("_")[0]

    @property
    def gain(self) -> float:
        """Dice after minus Dice before; NaN if either is undefined."""
        return math.nan if self.after is None else self.after.dice - self.before.dice


@dataclass(frozen=True, slots=True)
class Improvement:
    """Assessment of whether the trained cascade is better than the starting one."""

    word: str  # BETTER, NOT_BETTER or UNDETERMINED
    reason: str
    gain: MeanEstimate  # change of Dice in the held-out patients that count

    def __str__(self) -> str:
        return f"{self.word}: {self.reason}"


def assess_improvement(pairs: Sequence[Pair]) -> Improvement:
    """Assess whether held-out patients show the trained cascade to be better.

    ``better`` requires a 95 % interval of the Dice gain above zero, or a rise in every patient.
    """
    eligible = [pair for pair in counted(pairs) if not math.isnan(pair.gain)]
    gain = estimate_mean([pair.gain for pair in eligible], [pair.patient for pair in eligible])
    if gain.n_patients < FEWEST:
        return Improvement(UNDETERMINED, _undetermined_reason(pairs, gain), gain)
    word, reason = _assess(eligible, gain)
    if any(pair.in_training_data == UNKNOWN for pair in eligible):
        reason += "; it is not known whether the starting weights were trained on these patients"
    return Improvement(word, reason, gain)


def _assess(pairs: Sequence[Pair], gain: MeanEstimate) -> tuple[str, str]:
    figures = f"mean held-out Dice changed by {gain.mean:+.3f} (n = {gain.n_patients}"
    if gain.has_interval:
        word = BETTER if gain.mean > 0 and gain.low > 0 else NOT_BETTER
        return word, f"{figures}, 95 % interval {gain.low:+.3f} to {gain.high:+.3f})"
    risen = _rises(pairs)
    word = BETTER if gain.mean > 0 and all(risen) else NOT_BETTER
    rose = f"it rose in {sum(risen)} of {len(risen)} patients"
    return word, f"{figures}, too few for an interval); {rose}"


def counted(pairs: Sequence[Pair]) -> list[Pair]:
    """Return the pairs of patients that the given weights are not known to have seen."""
    trained_on = {pair.patient for pair in pairs if pair.in_training_data == YES}
    return [pair for pair in pairs if pair.patient not in trained_on]


def _undetermined_reason(pairs: Sequence[Pair], gain: MeanEstimate) -> str:
    if all(pair.after is None for pair in pairs):
        return "no held-out patient"
    if len(counted(pairs)) < len(pairs):
        return f"{gain.n_patients} held-out patients that the starting weights were not trained on"
    return f"Dice is defined for {gain.n_patients} held-out patients"


def _rises(pairs: Sequence[Pair]) -> list[bool]:
    """Return for each patient whether the mean Dice of the visits rose."""
    gains: dict[str, list[float]] = {}
    for pair in pairs:
        gains.setdefault(pair.patient, []).append(pair.gain)
    return [sum(values) > 0 for values in gains.values()]


def in_initial_training_data(
    notes: Mapping[str, Any], visit: str, image: str | None = None
) -> str:
    """Return whether weights were trained on a patient; ``image`` is the SHA-256 of the FLAIR."""
    answers = [_in_training_data(notes, visit, image)]
    if isinstance(notes.get("init"), Mapping):
        answers.append(in_initial_training_data(notes["init"], visit, image))
    return next((answer for answer in (YES, UNKNOWN) if answer in answers), NO)


def _in_training_data(notes: Mapping[str, Any], visit: str, image: str | None) -> str:
    names, images = notes.get("visits"), dict(notes.get("images") or {})
    if image is not None and image in images.values():
        return YES
    if not isinstance(names, list):
        return UNKNOWN
    same_label = visit.partition("_")[0] in {str(name).partition("_")[0] for name in names}
    if image is not None and set(names) <= set(images):
        # another image under the same label: a later session, or another person
        return UNKNOWN if same_label else NO
    return YES if same_label else NO


def comparison_rows(pairs: Sequence[Pair]) -> tuple[tuple[str, ...], list[dict[str, Any]]]:
    """Return columns and rows of ``before_after.tsv``, one row per visit."""
    columns = ["visit", "site", "in_initial_training_data"]
    columns += [f"{name}_{when}" for name in SHOWN for when in ("before", "after")]
    rows = [dict(zip(columns, [*_identity(p), *_scores(p)], strict=True)) for p in pairs]
    return tuple(columns), rows


def comparison_table(pairs: Sequence[Pair]) -> str:
    """Format a Markdown table of every visit and of the mean over counted visits, with its n."""
    head = ["visit", "site", "seen before"]
    head += [f"{title} {when}" for title in SHOWN.values() for when in ("before", "after")]
    lines = [head, ["---"] * len(head)]
    lines += [[*_identity(pair), *map(_number, _scores(pair))] for pair in pairs]
    eligible = counted(pairs)
    people = len({pair.patient for pair in eligible})
    means = [_mean(eligible, name, when) for name in SHOWN for when in ("before", "after")]
    lines.append([f"**mean, n = {people}**", "", "", *map(_number, means)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _identity(pair: Pair) -> tuple[str, str, str]:
    return pair.before.visit, pair.before.site, pair.in_training_data


def _mean(pairs: Sequence[Pair], name: str, when: str) -> float:
    scores = [getattr(pair, when) for pair in pairs]
    values = [getattr(score, name) for score in scores if score is not None]
    return estimate_mean(values, draws=1).mean


def _scores(pair: Pair) -> list[float]:
    """Return the shown scores, each before and after; NaN if no patient could be held out."""
    return [
        math.nan if score is None else getattr(score, name)
        for name in SHOWN
        for score in (pair.before, pair.after)
    ]


def _number(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{value:.3f}"
