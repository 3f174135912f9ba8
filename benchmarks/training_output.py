"""Reading the output folder of ``msseg-train``: plan, starting weights and operating points."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from bids_msseg.errors import DataError, NoInputError, UsageError
from bids_msseg.training.data.folds import Split
from bids_msseg.training.opening import START

if TYPE_CHECKING:
    from bids_msseg.models.weights import CascadePoint
    from bids_msseg.training.context import TrainingContext

WEIGHTS_SUFFIXES = (".safetensors", ".pt")


def open_training(folder: Path, *, device: str = "cpu") -> TrainingContext:
    """Open the output folder of ``msseg-train`` for reading.

    Raises NoInputError if there is no training, DataError if its plan cannot be read.
    """
    from bids_msseg.models.engine import choose_engine
    from bids_msseg.training.context import TrainingContext
    from bids_msseg.training.recipe import make_cascade_recipe

    path = folder / "training.json"
    starts = [
        weights
        for suffix in WEIGHTS_SUFFIXES
        for weights in sorted(folder.glob(f"{START}/*{suffix}"))
    ]
    if not path.is_file() or not starts:
        raise NoInputError(
            f"{folder} does not hold the output of msseg-train",
            hint="pass the output folder of msseg-train",
        )
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
        split = Split(tuple(tuple(map(str, names)) for names in plan["split"]))
        recipe, seen = make_cascade_recipe(plan["recipe"]), bool(plan["seen"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, UsageError) as error:
        raise DataError(
            f"cannot read {path}: {error}", hint="run msseg-train again to recreate it"
        ) from error
    engine = choose_engine(device)
    return TrainingContext(folder, split, starts[0], seen, None, None, engine, recipe)


def read_point(folder: Path, test: int) -> CascadePoint:
    """Read the operating point of a test fold.

    Raises DataError if the training has none.
    """
    from bids_msseg.models.weights import CascadePoint

    path = folder / "points.json"
    try:
        return CascadePoint(**json.loads(path.read_text(encoding="utf-8"))[str(test)])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(
            f"cannot read fold {test} in {path}: {error}",
            hint="run msseg-train again to recreate it",
        ) from error
