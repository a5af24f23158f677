"""Holds the test cluster against Kubernetes' documented behaviour, through the official client."""
