"""The images of a cluster."""
