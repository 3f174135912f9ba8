"""Multiple sclerosis lesion segmentation as a BIDS App: a cascade of two 3-D CNNs.

``docs/developer/design.md`` describes the subpackages. Importing this package has no side effects
and loads neither torch nor nipype; :func:`~bids_msseg.api.segment` is loaded on first access.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bids_msseg.api import segment
    from bids_msseg.result import SegmentationResult

__all__ = ["SegmentationResult", "__version__", "segment"]

__version__ = "0.1.0"
_MODULES = {"SegmentationResult": "result", "segment": "api"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"bids_msseg.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
