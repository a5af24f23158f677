"""Metrics, palette, segmenter, baselines and the visual report."""
