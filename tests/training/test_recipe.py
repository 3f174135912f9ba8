from __future__ import annotations

from typing import Any

import pytest

from bids_msseg.errors import UsageError
from bids_msseg.training.recipe import CascadeRecipe, make_cascade_recipe


def test_what_is_not_named_is_as_in_the_default() -> None:
    settings = {"real_share": "0.75", "candidate": {"steps": "2e1", "learning_rate": "2e-3"}}
    recipe = make_cascade_recipe(settings)
    assert recipe.real_share == 0.75
    assert (recipe.candidate.steps, recipe.candidate.learning_rate) == (20, 2e-3)
    usual = CascadeRecipe()
    assert recipe.candidate.ema == usual.candidate.ema
    assert recipe.refinement == usual.refinement
    assert make_cascade_recipe({}) == usual


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 3},
        {"candidate": {"step": 3}},
        {"candidate": 3},
        {"candidate": {"steps": 1.5}},
        {"refinement": {"steps": 0}},
        {"refinement": {"batch": -1}},
        {"real_share": 1.5},
        {"paint_chance": -0.1},
        {"folds": 1},
        {"size": 40},
        {"size": "large"},
        {"candidate": {"schedule": "linear"}},
        {"candidate": {"learning_rate": -0.1}},
        {"refinement": {"learning_rate": "nan"}},
        {"refinement": {"ema": 1}},
        {"candidate_net": {"widths": "wide"}},
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        make_cascade_recipe(settings)
