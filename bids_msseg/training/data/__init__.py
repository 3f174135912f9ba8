"""Labelled visits: files, folds, and the sub-images and crops that networks learn from."""
