"""Intervals of lesion loads, confidence of lesions, and the validity of both."""
