"""Consensus of the masks of several raters."""
