"""Print how out-of-fold predictions agree with the experts, per visit and per site.

usage: python benchmarks/accuracy.py TRAIN_OUT BIDS_DIR [--labels DIR]

``TRAIN_OUT`` is what ``msseg-train`` wrote: ``predictions/`` holds, for every visit, the mask by
nets that had not seen its patient. The masks are read again from disk and scored on their own
grid, so the table does not rest on what the training said of itself.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bids_msseg.bids.query import find_visits
from bids_msseg.commands.labels import find_truth
from bids_msseg.commands.scoring import Score, score
from bids_msseg.commands.shipping import score_table
from bids_msseg.commands.train import read_sites
from bids_msseg.imaging.volume import load_volume


def main() -> int:
    """Score every prediction that has a manual mask."""
    parser = argparse.ArgumentParser(description="Score out-of-fold predictions.")
    parser.add_argument("train_out", type=Path)
    parser.add_argument("bids_dir", type=Path)
    parser.add_argument("--labels", type=Path)
    options = parser.parse_args()
    labels = options.labels or options.bids_dir / "derivatives" / "manual"
    sites = read_sites(options.bids_dir, "site")
    scores: list[Score] = []
    normal: list[str] = []
    for visit in find_visits(options.bids_dir).visits:
        truth = find_truth(labels, visit)
        mask = find_truth(options.train_out / "predictions", visit)
        if truth is None or mask is None:
            print(f"{visit.key}: no manual mask or no prediction, left out")
            continue
        found = load_volume(mask).data > 0
        site = sites.get(visit.participant, "one site")
        scores.append(
            score(found, load_volume(truth), visit=visit.key, site=site, method="cascade")
        )
        normal += _normal_hyperintensity(truth, found, visit.key)
    print(score_table(scores))
    if normal:
        print("\nshare of `label-normalWMH` (bright, but no lesion) that is called lesion:")
        print("\n".join(normal))
    return 0


def _normal_hyperintensity(truth: Path, found: object, key: str) -> list[str]:
    path = truth.with_name(truth.name.replace("label-L", "label-normalWMH"))
    if not path.is_file():
        return []
    normal = load_volume(path).data > 0
    return [f"{key}: {float((normal & found).sum()) / max(1, int(normal.sum())):.3f}"]


if __name__ == "__main__":
    raise SystemExit(main())
