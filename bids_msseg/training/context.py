"""Folder, split, starting weights and settings of a training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bids_msseg.models.engine import Engine
from bids_msseg.training.data.folds import FoldSet, Split
from bids_msseg.training.data.visits import LabelledVisit, load_visit
from bids_msseg.training.recipe import CascadeRecipe
from bids_msseg.training.start import StartingNetworks, read_start


@dataclass(frozen=True, slots=True)
class TrainingContext:
    """Folder, split, starting weights, engine and recipe of a training."""

    folder: Path  # holds ``cohort/`` and receives all other results
    split: Split
    start: Path
    seen: bool  # whether the starting cascade was trained on one of the visits
    label_maps: Path | None  # None: no synthetic images
    lesion_bank: Path | None  # None: no painted lesions
    engine: Engine
    recipe: CascadeRecipe

    def checkpoint(self, stage: str) -> Path:
        """Return the path of the checkpoint of a stage."""
        return self.folder / "checkpoints" / f"{stage}.pt"

    def networks(self) -> StartingNetworks:
        """Read the starting networks."""
        recipe = self.recipe
        return read_start(self.start, recipe.candidate_net, seen=self.seen)

    def visit(self, name: str) -> LabelledVisit:
        """Read a prepared visit."""
        return load_visit(self.folder / "cohort" / f"{name}.npz")

    def training_visits(self, test: int | None) -> tuple[LabelledVisit, ...]:
        """Read the training visits for a test fold, or all visits for the release."""
        return tuple(self.visit(name) for name in self.split.members(self.training_folds(test)))

    def training_folds(self, test: int | None) -> FoldSet:
        """Return the training folds for a test fold, or all folds for the release."""
        return self.split.everything if test is None else self.split.without(test)
