"""Recipe of a training: all settings that determine its result, besides the data."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from bids_msseg.errors import UsageError
from bids_msseg.models.lesion_anatomy import LesionAnatomyConfig
from bids_msseg.models.lesion_refinement import LesionRefinementConfig
from bids_msseg.trainer.plan import FitPlan

NETWORKS = ("candidate", "refinement")
SHAPES = ("candidate_net", "refinement_net")
SCHEDULES = ("polynomial", "constant")


@dataclass(frozen=True, slots=True)
class CascadeRecipe:
    """Settings that determine the result of a training, besides the data.

    Up to ``folds`` participants are held out one by one. ``real_share`` of the sub-images show
    labelled visits, the others are synthetic if there are label maps. ``painted_sets`` is per
    visit. ``size`` is in voxels of 1 mm. Network shapes apply to fresh weights only.
    """

    seed: int = 7
    folds: int = 5
    candidate: FitPlan = field(
        default_factory=lambda: FitPlan(steps=1000, learning_rate=1e-3, ema=0.995)
    )
    refinement: FitPlan = field(
        default_factory=lambda: FitPlan(steps=600, batch=16, learning_rate=1.5e-3)
    )
    real_share: float = 0.6
    paint_chance: float = 0.4
    painted_sets: int = 12
    candidate_threshold: float = 0.1
    size: int = 96
    candidate_net: LesionAnatomyConfig = field(default_factory=LesionAnatomyConfig)
    refinement_net: LesionRefinementConfig = field(default_factory=LesionRefinementConfig)


def read_recipe(path: Path | None) -> CascadeRecipe:
    """Read a recipe file; return the default recipe for None.

    Raises UsageError if the file cannot be read, or has unknown keys or invalid values.
    """
    if path is None:
        return CascadeRecipe()
    known = [name for name in asdict(CascadeRecipe()) if name not in SHAPES]
    return make_cascade_recipe(read_yaml(path, known))


def read_yaml(path: Path, known: Collection[str]) -> dict[str, Any]:
    """Read a YAML mapping that may have only the keys in ``known``.

    Raises UsageError if the file cannot be read or has unknown keys.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"cannot read {path}: {error}", hint="give a YAML file") from error
    unknown = (
        sorted(map(str, set(content) - set(known))) if isinstance(content, dict) else ["no keys"]
    )
    if unknown:
        raise UsageError(
            f"{path} has unknown keys: {', '.join(unknown)}",
            hint=f"use some of: {', '.join(known)}",
        )
    return dict(content)


def make_cascade_recipe(settings: Mapping[str, Any]) -> CascadeRecipe:
    """Apply the settings of a YAML file to the default recipe.

    Raises UsageError if a setting is unknown or its value is invalid.
    """
    try:
        usual = CascadeRecipe()
        numbers = {key: value for key, value in settings.items() if key not in NETWORKS}
        recipe = replace(
            usual,
            candidate=_plan("candidate", settings, usual.candidate),
            refinement=_plan("refinement", settings, usual.refinement),
            **_numbers(CascadeRecipe, numbers),
        )
        return _checked(recipe)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"the recipe is wrong: {error}", hint="see the recipe in the model card for an example"
        ) from error


def _plan(name: str, settings: Mapping[str, Any], usual: FitPlan) -> FitPlan:
    changes = settings.get(name, {})
    if not isinstance(changes, Mapping):
        raise TypeError(f"{name} is {changes!r}, not steps, batch, learning_rate and so on")
    plan = replace(usual, **_numbers(FitPlan, changes))
    if plan.steps < 1 or plan.batch < 1 or plan.accumulate < 1:
        raise ValueError(f"{name}: steps, batch and accumulate are at least 1")
    if not (0 < plan.learning_rate < 1 and 0 <= plan.ema < 1 and plan.weight_decay >= 0):
        raise ValueError(f"{name}: learning_rate, ema or weight_decay is out of range")
    if plan.schedule not in SCHEDULES:
        raise ValueError(f"{name}: schedule is one of {', '.join(SCHEDULES)}")
    return plan


def _numbers(kind: type, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Convert settings to the types of the fields; YAML reads ``2e-3`` as text."""
    readers: dict[object, Callable[[Any], Any]] = {"int": _whole, "float": float, "str": str}
    known = {one.name: readers[one.type] for one in fields(kind) if one.type in readers}
    unknown = sorted(map(str, set(settings) - set(known)))
    if unknown:
        raise TypeError(f"there is no {', '.join(unknown)} among {', '.join(known)}")
    return {name: known[name](value) for name, value in settings.items()}


def _whole(value: Any) -> int:
    number = float(value)
    if number % 1:
        raise ValueError(f"{value} is not a whole number")
    return int(number)


def _checked(recipe: CascadeRecipe) -> CascadeRecipe:
    shares = ("real_share", "paint_chance", "candidate_threshold")
    wrong = [name for name in shares if not 0 <= getattr(recipe, name) <= 1]
    if wrong:
        raise ValueError(f"{wrong[0]} is not between 0 and 1")
    if recipe.folds < 2 or recipe.painted_sets < 1:
        raise ValueError("folds are at least 2, and painted_sets at least 1")
    if recipe.size < 32 or recipe.size % 16:
        raise ValueError("size is a multiple of 16 from 32 upwards")
    return recipe
