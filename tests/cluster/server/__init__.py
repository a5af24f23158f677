"""An API server on a real socket, with the controllers, the scheduler and the kubelets that make it a cluster."""

from tests.cluster.server.cluster import Request, TestCluster
from tests.cluster.server.nodes import Node
from tests.cluster.server.processes import PodRun

__all__ = ["Node", "PodRun", "Request", "TestCluster"]
