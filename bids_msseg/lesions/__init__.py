"""Lesions as instances: labelling, volumes, regions, agreement with experts."""
