"""From the name of a segmenter and its options to the segmenter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from bids_msseg.segmenters.base import Segmenter
from bids_msseg.segmenters.command import open_command
from bids_msseg.segmenters.nnunet import open_nnunet
from bids_msseg.segmenters.samseg import open_samseg

OPENERS: Final[Mapping[str, Callable[[Mapping[str, Any]], Segmenter]]] = {
    "nnunet": open_nnunet,
    "samseg": open_samseg,
    "command": open_command,
}


def open_segmenter(name: str, options: Mapping[str, Any]) -> Segmenter:
    """Make a segmenter from its options; nothing is run.

    Parameters
    ----------
    name : str
        One of :data:`OPENERS`.
    options : mapping
        Content of ``--segmenter-config``.

    Returns
    -------
    Segmenter

    Raises
    ------
    UsageError
        If an option cannot be used.
    NoInputError, DataError
        If its model is not there or cannot be read.
    """
    return OPENERS[name](options)
