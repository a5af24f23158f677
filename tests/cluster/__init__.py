"""A Kubernetes of our own for tests: an API server on a socket with its controllers, and a proxy with faults."""
