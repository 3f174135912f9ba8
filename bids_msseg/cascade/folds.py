"""Nested folds: which patients a net may see, so that every number is about an unseen one.

For an outer test fold ``k``, the candidate net is trained on all other folds, and the refinement
net on candidates that were found in each other fold ``j`` by a net trained without ``j`` and
without ``k``. With three folds that inner net has seen a single fold, and each inner net serves
two outer folds without ever meeting their patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

FoldSet = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Split:
    """Who is in which fold.

    Attributes
    ----------
    folds : tuple of tuple of str
        Visit names of each fold.
    """

    folds: tuple[tuple[str, ...], ...]

    @property
    def everything(self) -> FoldSet:
        """All fold numbers."""
        return tuple(range(len(self.folds)))

    def without(self, *left_out: int) -> FoldSet:
        """Return the fold numbers but these."""
        return tuple(fold for fold in self.everything if fold not in left_out)

    def members(self, folds: FoldSet) -> tuple[str, ...]:
        """Return the visits of these folds."""
        return tuple(name for fold in folds for name in self.folds[fold])

    def sources(self, test: int | None) -> tuple[tuple[int, FoldSet], ...]:
        """Pair each fold that trains a refinement net with the folds its candidate net saw.

        Parameters
        ----------
        test : int or None
            The outer test fold, or None for the net that ships.

        Examples
        --------
        >>> Split((("a",), ("b",), ("c",))).sources(0)
        ((1, (2,)), (2, (1,)))
        """
        held = () if test is None else (test,)
        return tuple((fold, self.without(*held, fold)) for fold in self.without(*held))


def balanced_split(
    participants: Mapping[str, Sequence[str]],
    sites: Mapping[str, str],
    loads: Mapping[str, float],
    count: int,
) -> Split:
    """Deal participants into folds so that every fold has its share of each site and load.

    Parameters
    ----------
    participants : mapping of participant to visit names
        All visits of a participant go into one fold.
    sites : mapping of participant to site
    loads : mapping of participant to lesion load in mL
    count : int
        Number of folds.

    Returns
    -------
    Split

    Raises
    ------
    ValueError
        If there are fewer participants than folds.

    Examples
    --------
    >>> people = {"a": ["a1"], "b": ["b1", "b2"], "c": ["c1"]}
    >>> balanced_split(people, dict.fromkeys(people, "X"), {"a": 1, "b": 9, "c": 5}, 3).folds
    (('b1', 'b2'), ('c1',), ('a1',))
    """
    if len(participants) < count:
        raise ValueError(f"{len(participants)} participants cannot fill {count} folds")
    dealt: list[list[str]] = [[] for _ in range(count)]
    sizes = [0] * count
    for site in sorted(set(sites.values())):
        queue = sorted(
            (name for name in participants if sites[name] == site),
            key=lambda name: (-loads[name], name),
        )
        for start in range(0, len(queue), count):
            hand = queue[start : start + count]
            # the fold with fewest people gets the heaviest of this hand
            order = sorted(range(count), key=lambda fold: (sizes[fold], fold))
            for fold, name in zip(order, hand, strict=False):
                dealt[fold].extend(participants[name])
                sizes[fold] += 1
    return Split(tuple(tuple(fold) for fold in dealt))
