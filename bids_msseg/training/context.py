"""Where a training happens, and with what."""

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
    """Where a training happens, and with what.

    Attributes
    ----------
    folder : path
        Holds ``cohort/``; gets ``unseen/``, ``paintings/``, ``checkpoints/``, ``logs/`` and
        ``held-out/``.
    split : Split
    start : path
        Weights to start from; see :func:`bids_msseg.training.start.read_start`.
    seen : bool
        Whether the starting cascade was trained on one of the visits.
    label_maps : path or None
        Folder of prepared label maps; nothing is synthesised without it.
    lesion_bank : path or None
        Lesions to paint; none are painted without it.
    engine : Engine
    recipe : CascadeRecipe
    """

    folder: Path
    split: Split
    start: Path
    seen: bool
    label_maps: Path | None
    lesion_bank: Path | None
    engine: Engine
    recipe: CascadeRecipe

    def checkpoint(self, stage: str) -> Path:
        """Name the checkpoint of a stage."""
        return self.folder / "checkpoints" / f"{stage}.pt"

    def networks(self) -> StartingNetworks:
        """Read the networks to start from."""
        recipe = self.recipe
        return read_start(self.start, recipe.candidate_net, seen=self.seen)

    def visit(self, name: str) -> LabelledVisit:
        """Read a prepared visit."""
        return load_visit(self.folder / "cohort" / f"{name}.npz")

    def training_visits(self, test: int | None) -> tuple[LabelledVisit, ...]:
        """Read the visits that may be seen for a test fold; all for the release."""
        return tuple(self.visit(name) for name in self.split.members(self.training_folds(test)))

    def training_folds(self, test: int | None) -> FoldSet:
        """Return the folds that may be seen for a test fold; all for the release."""
        return self.split.everything if test is None else self.split.without(test)
