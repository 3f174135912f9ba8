"""Creation of a segmenter from its name and options."""

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
    """Create a segmenter from its options; MssegError if an option or model is unusable."""
    return OPENERS[name](options)
