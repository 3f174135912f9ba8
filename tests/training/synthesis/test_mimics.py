from __future__ import annotations

from dataclasses import replace

import numpy as np

from bids_msseg.training.synthesis.geometry import crop_label_map
from bids_msseg.training.synthesis.mimics import add_mimics, find_horns
from bids_msseg.training.synthesis.plan import SynthesisPlan
from bids_msseg.training.synthesis.tissues import FAR, HALO_STEPS, LabelMap

NOTHING = SynthesisPlan(halo=0, caps=0, flow=0, patchy=0, bright_cortex=0)


def test_horns_are_the_ends_of_both_ventricles(label_map: LabelMap) -> None:
    halo = np.full_like(label_map.halo, FAR)
    halo[24:28, 20:40, 30:34] = 0
    halo[36:40, 22:38, 30:34] = 0
    horns = find_horns(replace(label_map, halo=halo))
    assert horns[:, 1].tolist() == [39, 20, 37, 22]
    assert horns[0, 0] == horns[1, 0] < horns[2, 0] == horns[3, 0]
    nowhere = replace(label_map, halo=np.full_like(halo, FAR))
    assert find_horns(nowhere).shape == (0, 3)


def _mimics(label_map: LabelMap, plan: SynthesisPlan, seed: int) -> np.ndarray:
    """Brightness that is added to the whole label map."""
    line = np.arange(label_map.tissue.shape[0], dtype=np.float32)
    at = np.stack(np.meshgrid(line, line, line, indexing="ij"))
    crop = crop_label_map(label_map, label_map.draws[1], at)
    return add_mimics(find_horns(label_map), crop, plan, np.random.default_rng(seed))


def test_without_amounts_nothing_is_added(label_map: LabelMap) -> None:
    assert not any(_mimics(label_map, NOTHING, seed).any() for seed in range(4))


def test_halo_and_caps_lie_near_the_ventricles(label_map: LabelMap) -> None:
    seen = 0
    for seed in range(8):
        added = _mimics(label_map, replace(NOTHING, halo=0.6, caps=0.5), seed)
        assert not added[label_map.halo >= 12 * HALO_STEPS].any()
        assert added.min() >= 0
        seen += bool(added.max() > 0.01)
    assert seen > 0
