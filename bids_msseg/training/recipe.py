"""Recipe of a training: all settings that determine its result, besides the data."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from bids_msseg.errors import UsageError
from bids_msseg.io.validation import first_error
from bids_msseg.models.lesion_anatomy import LesionAnatomyConfig
from bids_msseg.models.lesion_refinement import LesionRefinementConfig
from bids_msseg.trainer.plan import Count, FitPlan, Integer

SHAPES = ("candidate_net", "refinement_net")
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, slots=True)
class CascadeRecipe:
    """Settings of a training; defaults: ``training/cascade-5.yaml`` with fewer steps of CNN-1."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    seed: Integer = 7
    folds: Annotated[Integer, Field(ge=2)] = 5  # at most one per participant
    candidate: FitPlan = field(default_factory=lambda: FitPlan(steps=400, learning_rate=1e-3))
    refinement: FitPlan = field(
        default_factory=lambda: FitPlan(steps=300, batch=16, learning_rate=1.5e-3)
    )
    real_share: Share = 0.6  # of sub-images of labelled visits; the others are synthetic
    paint_chance: Share = 0.4
    painted_sets: Count = 12  # per visit
    candidate_threshold: Share = 0.1
    size: Annotated[Integer, Field(ge=32, multiple_of=16)] = 96  # voxels of 1 mm
    # shapes of networks without starting weights
    candidate_net: LesionAnatomyConfig = field(default_factory=LesionAnatomyConfig)
    refinement_net: LesionRefinementConfig = field(default_factory=LesionRefinementConfig)


def read_recipe(path: Path | None) -> CascadeRecipe:
    """Read a recipe file (UsageError if it is invalid); return the default recipe for None."""
    if path is None:
        return CascadeRecipe()
    known = [name for name in asdict(CascadeRecipe()) if name not in SHAPES]
    return make_cascade_recipe(read_yaml(path, known))


def read_yaml(path: Path, known: Collection[str]) -> dict[str, Any]:
    """Read a YAML mapping; raises UsageError if it is unreadable or has keys not in ``known``."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(
            f"cannot read {path}: {error}", hint="pass a readable YAML file"
        ) from error
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
    """Apply settings to the default recipe; raises UsageError if one is unknown or invalid."""
    usual = asdict(CascadeRecipe())
    changes = {key: _over(usual.get(key), value) for key, value in settings.items()}
    try:
        return TypeAdapter(CascadeRecipe).validate_python({**usual, **changes})
    except ValidationError as error:
        raise UsageError(
            f"invalid recipe: {first_error(error)}",
            hint="see the recipe in the model card for an example",
        ) from error


def _over(usual: Any, value: Any) -> Any:
    """Merge the settings of a network with the default ones."""
    both = isinstance(usual, Mapping) and isinstance(value, Mapping)
    return {**usual, **value} if both else value
