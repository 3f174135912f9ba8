"""Segmenters other than the cascade: their input, programs and checks of their output."""
