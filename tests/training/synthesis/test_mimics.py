from __future__ import annotations

from dataclasses import replace

import numpy as np

from bids_msseg.training.synthesis.geometry import crop_label_map
from bids_msseg.training.synthesis.mimics import _distance_to_line, add_mimics, find_horns
from bids_msseg.training.synthesis.plan import SynthesisPlan
from bids_msseg.training.synthesis.tissues import FAR, HALO_STEPS, LabelMap, Tissue

NOTHING = SynthesisPlan(halo=0, caps=0, tracts=0, midline=0, flow=0, patchy=0, bright_cortex=0)


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
    """Return the brightness that mimics add to the whole label map."""
    line = np.arange(label_map.tissue.shape[0], dtype=np.float32)
    at = np.stack(np.meshgrid(line, line, line, indexing="ij"))
    crop = crop_label_map(label_map, label_map.draws[1], at)
    return add_mimics(find_horns(label_map), crop, plan, np.random.default_rng(seed))


def test_zero_amounts_add_no_mimics(label_map: LabelMap) -> None:
    assert not any(_mimics(label_map, NOTHING, seed).any() for seed in range(4))


def test_halo_and_caps_lie_near_the_ventricles(label_map: LabelMap) -> None:
    seen = 0
    for seed in range(8):
        added = _mimics(label_map, replace(NOTHING, halo=0.6, caps=0.5), seed)
        assert not added[label_map.halo >= 12 * HALO_STEPS].any()
        assert added.min() >= 0
        seen += bool(added.max() > 0.01)
    assert seen > 0


def test_tracts_brighten_posterior_white_matter_on_both_sides(
    label_map: LabelMap,
) -> None:
    seen = [_mimics(label_map, replace(NOTHING, tracts=0.3), seed) for seed in range(8)]
    white = label_map.tissue == Tissue.WHITE
    assert all(added.min() >= 0 and not added[~white].any() for added in seen)
    # largest factors: 1.1 from the side, 1.6 from the uneven field
    assert 0.05 < max(added.max() for added in seen) < 0.3 * 1.1 * 1.6
    (front, back), middle = find_horns(label_map)[:2, 1], find_horns(label_map)[:, 0].mean()
    total = np.sum(seen, axis=0)
    x, y = np.indices(total.shape)[:2]
    means = [total[white & half].mean() for half in (y < back, y > front)]
    assert means[0] > means[1]
    left, right = (total[white & half].sum() for half in (x < middle, x > middle))
    assert 0.5 < left / right < 2


def test_the_rim_of_the_third_ventricle_is_bright(label_map: LabelMap) -> None:
    tissue = label_map.tissue.copy()
    third = (slice(30, 33), slice(28, 34), slice(20, 24))
    tissue[third] = Tissue.VENTRICLE
    with_third = replace(label_map, tissue=tissue)
    plan = replace(NOTHING, midline=0.6)
    images = [_mimics(with_third, plan, seed) for seed in range(8)]
    brightest = max(images, key=np.max)
    assert 0.05 < brightest.max() < 0.6 * 1.5
    assert not brightest[tissue == Tissue.VENTRICLE].any()
    bright = np.argwhere(brightest > 0.02)
    inside = np.clip(bright, [side.start for side in third], [side.stop - 1 for side in third])
    assert np.linalg.norm(bright - inside, axis=1).max() < 8
    assert not any(_mimics(label_map, plan, seed).any() for seed in range(4))


def test_distance_to_line_is_limited_to_segment() -> None:
    points = np.array([[0, 3, 0], [5, 4, 0], [13, 0, 4]], np.float32).T
    away = _distance_to_line(points, np.zeros(3), np.array([10.0, 0, 0]))
    assert away.tolist() == [3, 4, 5]
