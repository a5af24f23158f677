"""Measurements on pictures: pure numpy, one property per module."""
