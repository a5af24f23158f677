"""An API server on a real socket, with the controllers, the scheduler and the kubelets that make it a cluster.

It follows Kubernetes 1.33 (`schema.VERSION`) for Jobs, their pods and what stands around them. Not modelled: TLS,
server-side apply and managed fields, OpenAPI; cluster DNS, Services' endpoints and network policies (pods have loopback
addresses of their own); volumes' contents, users and security contexts of containers, probes, restarts in place,
termination messages other than the log's end; preemption by the scheduler, budgets at evictions; the controllers'
delays (a job is synced at once, not after a second). A Job that asks for `successPolicy`, `restartPolicy: OnFailure` or
a sidecar is refused with 501.
"""

from tests.cluster.server.cluster import Request, TestCluster
from tests.cluster.server.nodes import Node
from tests.cluster.server.processes import PodRun

__all__ = ["Node", "PodRun", "Request", "TestCluster"]
