from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bids_msseg.cli import train
from bids_msseg.errors import UsageError
from bids_msseg.models.weights import find_model, read_header
from bids_msseg.training.recipe import CascadeRecipe, make_cascade_recipe, read_recipe

RELEASED = Path(__file__).parents[2] / "training" / "cascade-5.yaml"


def test_default_recipe_is_that_of_released_weights_with_fewer_steps() -> None:
    usual, released = CascadeRecipe(), read_recipe(RELEASED)
    assert usual.candidate.steps < released.candidate.steps
    shortened = replace(released.candidate, steps=usual.candidate.steps)
    assert replace(released, candidate=shortened) == usual
    help_text = " ".join(train.build_parser().format_help().split())
    notes = read_header(find_model(None)).notes["recipe"]
    assert make_cascade_recipe(notes) == released
    assert f"{usual.candidate.steps} and {usual.refinement.steps} steps" in help_text


def test_missing_settings_take_default_values() -> None:
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
def test_invalid_recipe_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        make_cascade_recipe(settings)
