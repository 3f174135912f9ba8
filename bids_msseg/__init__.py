"""Multiple-sclerosis lesion segmentation as a BIDS App: a cascade of two 3-D CNNs.

``docs/developer/design.md`` describes the rooms of the package. Importing this package has no side
effects and loads neither torch nor nipype.
"""

__version__ = "0.1.0"
