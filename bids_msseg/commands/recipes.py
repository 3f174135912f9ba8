"""Recipes of a training: YAML in, plans out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, fields, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bids_msseg.errors import UsageError

if TYPE_CHECKING:
    from bids_msseg.cascade.augment import Augmentation
    from bids_msseg.cascade.stages import Recipe

Plan = TypeVar("Plan")
FITS = ("candidate", "continued", "refinement")
OPTIONAL_FITS = ("made", "everyone", "inner")
JUDGE = "judge"
KNOWN = (
    "seed",
    "folds",
    "widths",
    "refinement_widths",
    "refinement_norm",
    *FITS,
    *OPTIONAL_FITS,
    JUDGE,
    "keep_made",
    "look_with_all",
    "trust",
    "heads",
    "augment",
    "augmentation",
    "refinement_augment",
    "make",
    "mix",
)


def site_recipe(name: str = "site") -> dict[str, Any]:
    """Return what is done where no recipe is given; ``finetune`` for a fine-tuning."""
    import yaml

    file = resources.files("bids_msseg") / "data" / "recipes" / f"{name}.yaml"
    settings: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return settings


def read_recipe(
    path: Path | None, *, usual: str = "site", known: Sequence[str] = KNOWN
) -> dict[str, Any]:
    """Read a recipe; what it does not name is done as in :func:`site_recipe`.

    Parameters
    ----------
    path : path or None
    usual : str, default "site"
        Name of the recipe that holds where this one says nothing.
    known : sequence of str
        Keys that it may have.

    Returns
    -------
    dict
        Plain values, as in the file.

    Raises
    ------
    UsageError
        If the file cannot be read or has unknown keys.
    """
    settings = site_recipe(usual)
    if path is None:
        return settings
    content = read_yaml(path, known)
    for key, value in content.items():
        given = settings.get(key)
        both = isinstance(given, Mapping) and isinstance(value, Mapping)
        settings[key] = {**given, **value} if both else value  # type: ignore[dict-item]
    return settings


def read_yaml(path: Path, known: Collection[str]) -> dict[str, Any]:
    """Read a YAML file of named values.

    Parameters
    ----------
    path : path
    known : collection of str
        Keys that it may have.

    Raises
    ------
    UsageError
        If the file cannot be read or has unknown keys.
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


def make_recipe(settings: Mapping[str, Any]) -> Recipe:
    """Turn the content of a recipe file into plans.

    Raises
    ------
    UsageError
        If a plan has a field that does not exist, or a value that cannot be.
    """
    from bids_msseg.cascade.generation import MakePlan
    from bids_msseg.cascade.judge_patches import JudgePlan
    from bids_msseg.cascade.stages import Mix, Recipe
    from bids_msseg.cascade.training import FitPlan

    try:
        int(settings["seed"]), int(settings["folds"])
        first, second, third = (_plan(FitPlan, settings[name]) for name in FITS)
        usual = Recipe(first, second, third)
        later = {name: settings[name] for name in OPTIONAL_FITS if settings.get(name)}
        plans: dict[str, Any] = {name: _plan(FitPlan, plan) for name, plan in later.items()}
        if JUDGE in settings:
            plans[JUDGE] = _plan(JudgePlan, settings[JUDGE] or {})
        return replace(
            usual,
            **plans,
            widths=_widths(settings.get("widths", usual.widths)),
            refinement_widths=_widths(settings.get("refinement_widths", usual.refinement_widths)),
            keep_made=_flag("keep_made", settings.get("keep_made", usual.keep_made)),
            look_with_all=_flag(
                "look_with_all", settings.get("look_with_all", usual.look_with_all)
            ),
            trust=float(settings.get("trust", usual.trust)),
            refinement_norm=_norm(settings.get("refinement_norm", usual.refinement_norm)),
            augment=_augmentation(settings),
            refinement_augment=_augment_refinement(settings.get("refinement_augment")),
            make=_plan(MakePlan, settings.get("make", {})),
            mix=_plan(Mix, settings.get("mix", {})),
        )
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"the recipe is wrong: {error}", hint="see the recipe in the model card for an example"
        ) from error


def lesion_is_white(settings: Mapping[str, Any]) -> bool:
    """Say whether ``heads: {lesion_is_white: true}`` stands in a recipe.

    Raises
    ------
    UsageError
        If ``heads`` holds anything else.
    """
    heads = settings.get("heads", {})
    if not isinstance(heads, Mapping) or set(heads) - {"lesion_is_white"}:
        raise UsageError(
            f"the recipe is wrong: heads is {heads!r}", hint="write heads: {lesion_is_white: true}"
        )
    try:
        return _flag("lesion_is_white", heads.get("lesion_is_white", False))
    except ValueError as error:
        raise UsageError(
            f"the recipe is wrong: {error}", hint="write heads: {lesion_is_white: true}"
        ) from error


def _augmentation(settings: Mapping[str, Any]) -> Augmentation:
    from bids_msseg.cascade.augment import AugmentPlan

    if "augmentation" not in settings:
        return _plan(AugmentPlan, settings.get("augment", {}))
    if settings.get("augment"):
        raise ValueError("give `augment` or `augmentation`, not both")
    from bids_msseg.cascade.augmentation.catalogue import read_program

    return read_program(settings["augmentation"])


def _augment_refinement(values: Mapping[str, Any] | None) -> Augmentation | None:
    from bids_msseg.cascade.augment import AugmentPlan

    return None if values is None else _plan(AugmentPlan, values)


def _plan(kind: type[Plan], values: Mapping[str, Any]) -> Plan:
    """Make a plan of numbers and of pairs of them; YAML reads ``2e-3`` as text."""
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise TypeError(f"there is no {', '.join(unknown)} among {', '.join(known)}")
    missing = [
        name
        for name, field in known.items()
        if field.default is MISSING and field.default_factory is MISSING and name not in values
    ]
    if missing:
        raise TypeError(f"{', '.join(missing)} is missing")
    kinds = {name: field.type for name, field in known.items()}
    read = {name: _reader(kinds[name])(name, value) for name, value in values.items()}
    return kind(**read)


def _reader(kind: object) -> Callable[[str, Any], object]:
    if kind == "int":
        return _whole
    if kind == "str":
        return lambda _, value: str(value)
    return _number if kind == "float" else _pair


def _number(name: str, value: Any) -> float:
    del name
    return float(value)


def _whole(name: str, value: Any) -> int:
    number = float(value)
    if number % 1 or (name in {"steps", "batch", "accumulate"} and number < 1):
        raise ValueError(f"not a possible number: {name}")
    return int(number)


def _pair(name: str, value: Any) -> tuple[float, float]:
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
        raise ValueError(f"{name} is a pair of numbers, not {value}")
    return float(value[0]), float(value[1])


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} is true or false, not {value}")
    return value


def _norm(value: Any) -> str:
    if value not in ("instance", "batch"):
        raise ValueError(f"refinement_norm is instance or batch, not {value}")
    return str(value)


def _widths(values: Sequence[Any]) -> tuple[int, ...]:
    widths = tuple(int(value) for value in values)
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"widths are two or more numbers from 1 upwards, not {values}")
    return widths
