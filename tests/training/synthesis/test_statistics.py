from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from bids_msseg.lesions.regions import Region
from bids_msseg.training.synthesis.statistics import (
    MEASURED_PLACES,
    LesionStatistics,
    classes_of,
    sample_contrasts,
    sample_count,
    sample_regions,
    sample_volumes,
)


def mixture_cdf(volume: NDArray[np.float64]) -> NDArray[np.float64]:
    figures = LesionStatistics()
    usual = stats.lognorm(figures.volume_sigma, scale=figures.median_volume)
    confluent = stats.lognorm(figures.confluent_sigma, scale=figures.confluent_volume)
    share = figures.confluent_share

    def all_sizes(x: NDArray[np.float64] | float) -> NDArray[np.float64]:
        return np.asarray((1 - share) * usual.cdf(x) + share * confluent.cdf(x))

    low, high = all_sizes(figures.smallest), all_sizes(figures.largest)
    return np.asarray((all_sizes(volume) - low) / (high - low))


class TestSizes:
    def test_volumes_follow_log_normal_mixture(self) -> None:
        volumes = sample_volumes(np.random.default_rng(3), 20_000, LesionStatistics())
        assert stats.kstest(volumes, mixture_cdf).pvalue > 0.01

    @pytest.mark.parametrize(
        ("percentile", "measured"), [(25, 6.5), (50, 17.4), (75, 47), (95, 251), (99, 2217)]
    )
    def test_volume_percentiles_agree_with_measured_ones(
        self, percentile: int, measured: float
    ) -> None:
        volumes = sample_volumes(np.random.default_rng(4), 50_000, LesionStatistics())
        drawn = np.percentile(volumes, percentile)
        # sizes run over three orders of magnitude: a factor of 1.4 is close
        assert measured / 1.4 < drawn < measured * 1.4

    @given(st.floats(1, 50), st.floats(100, 5000), st.integers(0, 2**32))
    def test_volumes_stay_within_bounds(self, smallest: float, largest: float, seed: int) -> None:
        figures = LesionStatistics(smallest=smallest, largest=largest)
        volumes = sample_volumes(np.random.default_rng(seed), 50, figures)
        assert len(volumes) == 50
        assert volumes.min() >= smallest
        assert volumes.max() <= largest

    def test_edge_volume_is_in_the_larger_size_class(self) -> None:
        classes = classes_of(np.array([5.0, 10.0, 9e9]), LesionStatistics())
        assert [size.upper for size in classes] == [10.0, 100.0, np.inf]

    def test_counts_have_the_measured_median_and_range(self) -> None:
        rng = np.random.default_rng(5)
        counts = [sample_count(rng, LesionStatistics()) for _ in range(4000)]
        assert 78 < np.median(counts) < 92
        assert (min(counts), max(counts)) == (10, 400)

    def test_regions_follow_shares_and_confluent_is_periventricular(self) -> None:
        volumes = np.repeat([20.0, 2000.0], [8000, 50])
        regions = sample_regions(np.random.default_rng(6), volumes, LesionStatistics())
        for region, share in MEASURED_PLACES.items():
            assert np.mean([r is region for r in regions[:8000]]) == pytest.approx(share, abs=0.02)
        assert set(regions[8000:]) == {Region.PERIVENTRICULAR}


class TestContrasts:
    @pytest.mark.parametrize(
        ("volume", "flair", "t1w", "t2w"),
        [
            (5, 0.77, -0.06, 0.26),
            (50, 0.86, -0.18, 0.43),
            (500, 1.25, -0.62, 1.10),
            (5000, 1.23, -0.83, 1.28),
        ],
    )
    def test_contrasts_have_measured_mean_and_sd_by_size(
        self, volume: float, flair: float, t1w: float, t2w: float
    ) -> None:
        figures = LesionStatistics()
        rng = np.random.default_rng(1)
        # many brains, because the contrasts of lesions of one brain are correlated
        drawn = np.concatenate(
            [sample_contrasts(rng, np.full(20, volume), figures) for _ in range(400)]
        )
        np.testing.assert_allclose(drawn.mean(axis=0), [flair, t1w, t2w], atol=0.03)
        spread = next(c.spread for c in figures.classes if volume < c.upper)
        np.testing.assert_allclose(drawn.std(axis=0), spread, rtol=0.1)

    def test_contrasts_of_a_lesion_are_correlated(self) -> None:
        rng = np.random.default_rng(2)
        drawn = np.concatenate(
            [sample_contrasts(rng, np.full(20, 500.0), LesionStatistics()) for _ in range(400)]
        )
        flair, t1w, _ = np.corrcoef(drawn.T)
        np.testing.assert_allclose([flair[1], flair[2], t1w[2]], [-0.53, 0.25, -0.53], atol=0.07)

    def test_every_lesion_is_brighter_in_flair(self) -> None:
        drawn = sample_contrasts(np.random.default_rng(3), np.full(9999, 4.0), LesionStatistics())
        assert drawn[:, 0].min() == 0.15
