"""Factories of nipype workflows: nodes and their connections."""
