"""Agreement of the preset valverde2017 with the experts on held-out patients.

usage: python benchmarks/valverde2017.py OUT BIDS_DIR [--recipe YAML] [--split JSON] [--threads N]

Trains in nested folds below OUT, or resumes a training there; visits that are already in
OUT/cohort are not prepared again. ``--split`` is the ``training.json`` of another training whose
folds are used, so that both can be compared patient by patient.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path

import yaml

from bids_msseg.bids.query import find_visits
from bids_msseg.evaluation.labels import LabelledFiles, find_truth, read_sites
from bids_msseg.models.engine import choose_engine
from bids_msseg.training.data.folds import Split
from bids_msseg.training.model_card import score_table
from bids_msseg.training.valverde.run import run_valverde


def main() -> int:
    """Train, score, print."""
    parser = argparse.ArgumentParser(description="Measure the preset valverde2017.")
    parser.add_argument("out", type=Path)
    parser.add_argument("bids_dir", type=Path)
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--recipe", type=Path)
    parser.add_argument("--split", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    recipe = yaml.safe_load(options.recipe.read_text("utf-8")) if options.recipe else {}
    split = None
    if options.split:
        folds = json.loads(options.split.read_text("utf-8"))["split"]
        split = Split(tuple(tuple(fold) for fold in folds))
    start = time.process_time()
    scores = run_valverde(
        _labelled(options.bids_dir, options.labels),
        options.out,
        name="valverde2017",
        engine=choose_engine("cpu"),
        threads=options.threads,
        settings=recipe,
        split=split,
    )
    print(score_table(scores))
    print(f"\n{(time.process_time() - start) / 60:.1f} CPU minutes in this call")
    return 0


def _labelled(bids_dir: Path, labels: Path | None) -> list[LabelledFiles]:
    folder = labels or bids_dir / "derivatives" / "manual"
    sites = read_sites(bids_dir, "site")
    files = []
    for visit in find_visits(bids_dir, derivatives={"labels": folder}).visits:
        truth = find_truth(folder, visit)
        if truth is not None and visit.brain_mask is not None:
            site = sites.get(visit.participant, "one site")
            files.append(LabelledFiles(visit, visit.brain_mask, truth, site))
    return files


if __name__ == "__main__":
    raise SystemExit(main())
