"""The kinds that this API server knows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind under its path; `name` is `plural.group`, as error messages say it."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def name(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified_kind(self) -> str:
        """`Job.batch`, as a refusal names the kind."""
        return f"{self.kind}.{self.group}" if self.group else self.kind


_TABLE = """
-                             v1       pods                   Pod
-                             v1       services               Service
-                             v1       events                 Event
-                             v1       configmaps             ConfigMap
-                             v1       secrets                Secret
-                             v1       serviceaccounts        ServiceAccount
-                             v1       resourcequotas         ResourceQuota
-                             v1       persistentvolumeclaims PersistentVolumeClaim
-                             v1       nodes                  Node                   cluster
-                             v1       namespaces             Namespace              cluster
batch                         v1       jobs                   Job
apps                          v1       deployments            Deployment
policy                        v1       poddisruptionbudgets   PodDisruptionBudget
networking.k8s.io             v1       networkpolicies        NetworkPolicy
coordination.k8s.io           v1       leases                 Lease
scheduling.k8s.io             v1       priorityclasses        PriorityClass          cluster
rbac.authorization.k8s.io     v1       roles                  Role
rbac.authorization.k8s.io     v1       rolebindings           RoleBinding
kueue.x-k8s.io                v1beta1  workloads              Workload
kueue.x-k8s.io                v1beta1  localqueues            LocalQueue
kueue.x-k8s.io                v1beta1  clusterqueues          ClusterQueue           cluster
"""

RESOURCES = {
    (group.strip("-"), version, plural): Resource(group.strip("-"), version, plural, kind, not scope)
    for group, version, plural, kind, *scope in (line.split() for line in _TABLE.strip().splitlines())
}


def resource(plural: str, group: str = "") -> Resource:
    return next(r for r in RESOURCES.values() if r.plural == plural and r.group == group)


PODS = resource("pods")
JOBS = resource("jobs", "batch")
EVENTS = resource("events")
NODES = resource("nodes")
SERVICES = resource("services")
CONFIG_MAPS = resource("configmaps")
SECRETS = resource("secrets")
QUOTAS = resource("resourcequotas")
ACCOUNTS = resource("serviceaccounts")
NAMESPACES = resource("namespaces")
PRIORITY_CLASSES = resource("priorityclasses", "scheduling.k8s.io")
WORKLOADS = resource("workloads", "kueue.x-k8s.io")
LOCAL_QUEUES = resource("localqueues", "kueue.x-k8s.io")
