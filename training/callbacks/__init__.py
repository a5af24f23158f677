"""Composer callbacks: metrics, checkpoints, samples and stops."""
