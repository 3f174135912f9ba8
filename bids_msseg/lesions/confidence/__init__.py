"""Intervals of loads, confidence of lesions, and how well both hold."""
