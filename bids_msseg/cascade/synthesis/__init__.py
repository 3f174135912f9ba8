"""Painting multiple-sclerosis lesions into images of brains, on arrays at 1 mm.

:mod:`~bids_msseg.cascade.synthesis.statistics` holds how large, how many, how bright and how sharp
lesions of real patients are. Sampling comes in two steps, so that one set can be painted
into any image: :mod:`~bids_msseg.cascade.synthesis.placing` decides shape and place,
:mod:`~bids_msseg.cascade.synthesis.painting` the look.
:mod:`~bids_msseg.cascade.synthesis.shapes` says what a lesion is, and lets it grow between two
visits.

Lesions are fractions of voxels with a soft edge. The label of a lesion is where its fraction is at
least one half, so label and partial volume say the same.

Every random choice comes from the NumPy generator that the caller hands in.
"""
