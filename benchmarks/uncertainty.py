"""Validity of intervals, confidence and the image check on held-out patients.

usage: python benchmarks/uncertainty.py TRAIN_OUT BIDS_DIR [--labels DIR] [--write WEIGHTS]
[--faults KEY ...] [--out OUT]

``TRAIN_OUT`` is the output folder of ``msseg-train``: its out-of-fold predictions and prepared
visits are read. Every figure of a patient comes from a model fitted to the other patients.
``--write`` writes ``<name>.calibration.json`` beside finished weights, as ``msseg-train`` does for
new ones. ``--faults`` damages the images of these visits in known ways and prints the flags.
``--out`` reads the records of a run of the app and prints the results of its image check.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy import ndimage

from bids_msseg.bids.record import read_records
from bids_msseg.evaluation.labels import LabelledFiles, find_labelled
from bids_msseg.imaging.normalise import build_stack
from bids_msseg.imaging.quality import TrainingVisits, find_faults
from bids_msseg.imaging.quality_measures import measure_visit
from bids_msseg.imaging.volume import Volume, as_ras, load_volume
from bids_msseg.lesions.confidence.fit import (
    Checked,
    LesionCase,
    check_confidence,
    check_load,
    coverage,
    fit_load,
    rank_auc,
)
from bids_msseg.training.calibration import HeldOutData, calibrate, collect_held_out

BINS = (0.0, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)


def main() -> int:
    """Print every table."""
    options = _parse()
    labels = options.labels or options.bids_dir / "derivatives" / "manual"
    files = find_labelled(options.bids_dir, labels, options.train_out / "consensus")
    learnt = collect_held_out(options.train_out, files)
    print(load_table(learnt))
    print(confidence_table(learnt.lesions))
    print(image_table(learnt, files))
    by_key = {item.visit.key: item for item in files}
    for key in options.faults:
        print(fault_table(by_key[key], learnt, files))
    if options.out:
        print(record_table(options.out))
    if options.write:
        calibrate(options.train_out, files, options.write)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train_out", type=Path)
    parser.add_argument("bids_dir", type=Path)
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--write", type=Path, metavar="WEIGHTS")
    parser.add_argument("--faults", nargs="+", default=[], metavar="KEY")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def load_table(learnt: HeldOutData) -> str:
    """Tabulate the held-out interval of every visit, and the coverage by site."""
    checked = check_load(learnt.loads)
    names = dict(zip(learnt.loads, learnt.visits, strict=True))
    rows = [
        (
            names[check.case],
            check.case.site,
            f"{check.case.truth_ml:.2f}",
            f"{check.case.sweep_ml[3]:.2f}",
            f"{check.interval.expected_ml:.2f}",
            f"{check.interval.low_ml:.2f}-{check.interval.high_ml:.2f}",
            "yes" if check.inside else "NO",
        )
        for check in sorted(checked, key=lambda check: (check.case.site, names[check.case]))
    ]
    model = fit_load(learnt.loads)
    summary = "" if model is None else f"On all: cut {model.cut}, {model.patients} patients, "
    summary += "" if model is None else f"half width ×{math.exp(model.half_width):.2f}.\n"
    head = ("visit", "site", "experts mL", "p ≥ 0.5 mL", "expected mL", "90 % interval", "inside")
    return "\n".join(("## Lesion load", "", _table(head, rows), _coverage_table(checked), summary))


def _coverage_table(checked: Sequence[Checked]) -> str:
    rows = []
    for site, (inside, count) in coverage(checked).items():
        group = [check for check in checked if site in (check.case.site, "all")]
        width = np.median(
            [check.interval.high_ml / max(check.interval.low_ml, 0.1) for check in group]
        )
        rows.append(
            (
                site,
                str(count),
                f"{inside} ({inside / count:.2f})",
                f"{width:.1f}",
                f"{_log_error(group, 'mask'):.2f}",
                f"{_log_error(group, 'expected'):.2f}",
            )
        )
    head = ("site", "n", "inside", "high / low, median", "log error of p ≥ 0.5", "of expected")
    return _table(head, rows)


def _log_error(group: Sequence[Checked], estimator: str) -> float:
    """Return the root mean square of log(estimate / truth), 0.1 mL added to both."""
    errors = [
        math.log(
            (check.case.sweep_ml[3] if estimator == "mask" else check.interval.expected_ml) + 0.1
        )
        - math.log(check.case.truth_ml + 0.1)
        for check in group
    ]
    return float(np.sqrt(np.mean(np.square(errors))))


def confidence_table(lesions: Sequence[LesionCase]) -> str:
    """Tabulate the share of true lesions by held-out confidence."""
    pairs = check_confidence(lesions)
    rows = []
    for low, high in pairwise(BINS):
        inside = [(c, v) for c, v in pairs if low <= v < high or v == high == 1]
        true = sum(case.found for case, _ in inside)
        share = f"{true / len(inside):.2f}" if inside else "n/a"
        mean = f"{np.mean([v for _, v in inside]):.2f}" if inside else "n/a"
        rows.append((f"{low:.1f}-{high:.1f}", str(len(inside)), mean, share))
    aucs = []
    for site in ("all", *sorted({case.site for case, _ in pairs})):
        group = [(case, value) for case, value in pairs if site in (case.site, "all")]
        aucs.append((site, str(len(group)), f"{rank_auc(group):.2f}", f"{_within(group):.2f}"))
    return "\n".join(
        (
            "## Confidence of lesions",
            "",
            _table(("confidence", "lesions", "mean", "touch the experts'"), rows),
            _table(("site", "lesions", "AUC", "AUC within patients, mean"), aucs),
        )
    )


def _within(pairs: Sequence[tuple[LesionCase, float]]) -> float:
    people = {case.participant for case, _ in pairs}
    aucs = [
        rank_auc([pair for pair in pairs if pair[0].participant == participant])
        for participant in people
    ]
    defined = [value for value in aucs if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan


def image_table(learnt: HeldOutData, files: Sequence[LabelledFiles]) -> str:
    """Tabulate the image check of each labelled visit, compared with the other patients."""
    rows = []
    for item, measures in zip(files, learnt.measures, strict=True):
        other_visits = _without(learnt, files, item)
        distance = other_visits.distance(measures)
        flags = "; ".join(find_faults(measures, other_visits)) or "-"
        far = "n/a" if distance is None else f"{distance:.1f}"
        rows.append((item.visit.key, item.site, far, flags))
    return "## Check of the input images\n\n" + _table(
        ("visit", "site", "distance", "flags"), rows
    )


def _without(
    learnt: HeldOutData, files: Sequence[LabelledFiles], item: LabelledFiles
) -> TrainingVisits:
    """Return the training visits without those of a visit's patient."""
    pairs = zip(files, learnt.measures, strict=True)
    participant = item.visit.participant
    return TrainingVisits(
        tuple(m for labelled, m in pairs if labelled.visit.participant != participant)
    )


def fault_table(item: LabelledFiles, learnt: HeldOutData, files: Sequence[LabelledFiles]) -> str:
    """Tabulate the image check of a visit whose images were damaged on purpose."""
    other_visits = _without(learnt, files, item)
    images = {c: as_ras(load_volume(path)) for c, path in item.visit.contrasts.items()}
    rows = []
    for name, volumes, mask in damaged(images, as_ras(load_volume(item.brain))):
        stack = build_stack(volumes, mask)
        spacings = {c: volume.spacing for c, volume in volumes.items()}
        measures = measure_visit(
            stack.data, stack.present, stack.brain, mask=mask, spacings=spacings
        )
        distance = other_visits.distance(measures)
        far = "n/a" if distance is None else f"{distance:.1f}"
        rows.append((name, far, "; ".join(find_faults(measures, other_visits)) or "-"))
    rows.append(("empty brain mask", "n/a", find_faults({"brain_ml": 0.0, "cut_cm2": 0.0})[0]))
    head = f"## {item.visit.key}, damaged\n\n"
    return head + _table(("damage", "distance", "flags"), rows)


def damaged(
    images: Mapping[str, Volume], mask: Volume
) -> Iterator[tuple[str, dict[str, Volume], Volume]]:
    """Yield the original visit, then one fault after another; no bias field is removed."""
    flair = images["FLAIR"]
    yield "none", dict(images), mask
    for contrast in ("T1w", "T2w"):
        if contrast in images:
            yield f"{contrast} handed in as FLAIR", {"FLAIR": images[contrast]}, mask
    if "T2w" in images:
        swapped = {**images, "FLAIR": images["T2w"], "T2w": flair}
        yield "T2w and FLAIR swapped", swapped, mask
    inside = mask.data > 0
    spread = float(flair.data[inside].std())
    rng = np.random.default_rng(0)
    for share in (0.5, 1.0):
        noisy = flair.data + rng.normal(0, share * spread, flair.shape) * inside
        noisy = flair.with_data(noisy.astype(np.float32))
        yield f"noise of {share} SD", {**images, "FLAIR": noisy}, mask
    slices = np.flatnonzero(inside.any((0, 1)))
    for name, share in (("upper quarter", 0.75), ("upper half", 0.5)):
        end = int(slices[0] + share * (slices[-1] - slices[0]))
        cut = {c: _cut_above(volume, end) for c, volume in images.items()}
        yield f"{name} of the brain cut off", cut, _cut_above(mask, end)
    step = max(2, math.ceil(10 / float(flair.spacing[2])))
    coarse = _thick(mask.with_data(inside.astype(np.float32)), step)
    coarse = coarse.with_data(coarse.data > 0.5)
    yield (
        f"slices of {step * float(flair.spacing[2]):.0f} mm",
        {**images, "FLAIR": _thick(flair, step)},
        coarse,
    )
    blurred = ndimage.gaussian_filter(flair.data, 3 / flair.spacing)
    yield "blurred by 3 mm", {**images, "FLAIR": flair.with_data(blurred)}, mask
    yield "every third slice darker", {**images, "FLAIR": _striped(flair, spread)}, mask
    for shift_mm in (3, 6):
        yield (
            f"moved by {shift_mm} mm",
            {**images, "FLAIR": _with_motion(flair, inside, shift_mm)},
            mask,
        )


def _cut_above(volume: Volume, end: int) -> Volume:
    return Volume(volume.data[:, :, :end], volume.affine)


def _thick(volume: Volume, step: int) -> Volume:
    """Average slices in groups."""
    count = volume.shape[2] // step
    data = volume.data[:, :, : count * step].reshape(*volume.shape[:2], count, step).mean(-1)
    affine = volume.affine.copy()
    affine[:3, 2] *= step
    affine[:3, 3] += volume.affine[:3, 2] * (step - 1) / 2
    return Volume(data.astype(np.float32), affine)


def _striped(volume: Volume, spread: float) -> Volume:
    data = volume.data.copy()
    data[:, :, ::3] -= 0.6 * spread
    return volume.with_data(data)


def _with_motion(volume: Volume, inside: np.ndarray, mm: float) -> Volume:
    """Simulate motion: take outer wave numbers from a head shifted along the second axis."""
    waves = np.fft.fftfreq(volume.shape[1])
    shift = np.where(waves > 0.1, mm / float(volume.spacing[1]), 0.0)
    turned = np.exp(-2j * np.pi * waves * shift)[None, :, None]
    blurred = np.abs(np.fft.ifft(np.fft.fft(volume.data * inside, axis=1) * turned, axis=1))
    return volume.with_data(np.where(inside, blurred, volume.data).astype(np.float32))


def record_table(out: Path) -> str:
    """Tabulate the image check of the visits of a finished run."""
    rows = []
    for record in read_records(out):
        far = record.quality_measures.get("training_distance")
        low, high = (record.load_interval_ml or (math.nan, math.nan, math.nan))[1:]
        rows.append(
            (
                record.key,
                "n/a" if record.lesion_load_ml is None else f"{record.lesion_load_ml:.2f}",
                f"{low:.2f}-{high:.2f}",
                "n/a" if far is None else f"{far:.1f}",
                "; ".join(record.quality_reasons or ()) or "-",
            )
        )
    head = ("visit", "load mL", "90 % interval", "distance", "flags")
    return f"## {out.name}\n\n" + _table(head, rows)


if __name__ == "__main__":
    raise SystemExit(main())
