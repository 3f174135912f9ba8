from __future__ import annotations

from pathlib import Path

import pytest

from bids_msseg.cascade.augment import AugmentPlan, Program
from bids_msseg.commands.recipes import make_recipe, read_recipe
from bids_msseg.errors import UsageError

EXAMPLE = Path(__file__).parents[2] / "training" / "augmentation-example.yaml"


def test_a_recipe_may_bring_a_program() -> None:
    recipe = make_recipe(read_recipe(EXAMPLE))
    assert isinstance(recipe.augment, Program)
    assert [type(step).__name__ for step in recipe.augment.training[:3]] == [
        "Affine",
        "ElasticTransform",
        "Mirror",
    ]


def test_numbers_still_make_the_plan_of_fixed_form(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("augment: {blur_mm: 0}\n")
    assert make_recipe(read_recipe(path)).augment == AugmentPlan(blur_mm=0.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("augmentation: [Spin]", "no augmentation called Spin"),
        ("augmentation: Rotate", "not a list"),
        ("augmentation: [Rotate]\naugment: {flip: 0}", "not both"),
    ],
)
def test_a_wrong_program_is_told(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        make_recipe(read_recipe(path))
