"""Dagster wiring only: definitions, resources, partitions, automation, the command line."""
