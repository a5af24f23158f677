"""The doctor's look at the cluster: API server, rights, queue, GPU nodes and job image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import urllib3
from kubernetes import client as k8s
from kubernetes.client.exceptions import ApiException

from infra.errors import BackdropError
from infra.jobs.kubernetes.api import Api
from infra.jobs.kubernetes.build import GPU, PRODUCT
from infra.jobs.kubernetes.connection import connect, words
from infra.jobs.kubernetes.rights import ALL, QUEUE_RIGHTS, RIGHTS, Right
from infra.jobs.kubernetes.settings import ClusterSettings, Resources
from infra.settings import Settings
from orchestration.doctor import Finding, failed, ok, skipped
from orchestration.doctor_image import image

QUEUES = ("kueue.x-k8s.io", "v1beta1", "localqueues")
ACCOUNT = "system:serviceaccount:"
_RBAC = "infra/kubernetes/base/rbac.yaml; of a queue: infra/kubernetes/overlays/kueue/rbac.yaml"


def examine_cluster(settings: Settings, *, pull: bool = False) -> Iterator[Finding]:
    """Everything about the cluster; stops where nothing more can be asked."""
    if settings.cluster is None:
        yield failed("cluster", "BACKDROP_CLUSTER is empty", "name the cluster's YAML file")
        return
    try:
        cluster = ClusterSettings.load(settings.cluster)
        api = connect()
    except BackdropError as error:
        yield failed("cluster", error.what, error.remedy)
        return
    yield ok("cluster", f"{settings.cluster} describes the namespace {cluster.namespace}")
    try:
        who = user(api)
        yield ok("API server", f"{api.configuration.host} answers{f' {who}' if who else ''}")
        yield from rights(api, cluster, who)
        yield from queue(api, cluster)
        yield from gpus(api, cluster)
    except (urllib3.exceptions.HTTPError, OSError) as error:
        yield failed("API server", f"does not answer: {error}", "check KUBECONFIG and the network policies")
        return
    except ApiException as error:
        remedy = "log in again" if error.status == 401 else "read the API server's log"
        yield failed("API server", f"refuses: {words(error)}", remedy)
        return
    if pull:
        yield image(Api(cluster.namespace), cluster)
    else:
        yield skipped("image", cluster.image, "`backdrop doctor --pull` runs it once")


def user(api: k8s.ApiClient) -> str:
    """Who we are to the cluster; "" where it does not tell."""
    review = k8s.V1SelfSubjectReview(api_version="authentication.k8s.io/v1", kind="SelfSubjectReview")
    try:
        answer = k8s.AuthenticationV1Api(api).create_self_subject_review(review)
    except ApiException as error:
        if error.status in (403, 404, 405):
            return ""
        raise
    return str(answer.status.user_info.username)


def needed_by(username: str, *, queue: bool = False) -> Sequence[Right]:
    """The rights of one of our service accounts; all of them for anybody else, who stands for the whole."""
    account = username.rpartition(":")[2] if username.startswith(ACCOUNT) else ""
    if account in RIGHTS:
        return RIGHTS[account] + (QUEUE_RIGHTS.get(account, ()) if queue else ())
    return ALL + tuple(right for more in QUEUE_RIGHTS.values() for right in more if queue)


def rights(api: k8s.ApiClient, cluster: ClusterSettings, username: str = "") -> Iterator[Finding]:
    """A line for each right that is missing, or one for all of them."""
    needed, namespace = needed_by(username, queue=bool(cluster.queue)), cluster.namespace
    missing = [right for right in needed if not allowed(api, namespace, right)]
    for right in missing:
        yield failed("rights", f"cannot {right} in the namespace {namespace}", f"grant it: {_RBAC}")
    if not missing:
        yield ok("rights", f"all {len(needed)}, in the namespace {namespace}")


def allowed(api: k8s.ApiClient, namespace: str, right: Right) -> bool:
    resource, _, subresource = right.resource.partition("/")
    attributes = k8s.V1ResourceAttributes(
        namespace=namespace, group=right.group, resource=resource, subresource=subresource or None, verb=right.verb
    )
    review = k8s.V1SelfSubjectAccessReview(
        api_version="authorization.k8s.io/v1",
        kind="SelfSubjectAccessReview",
        spec=k8s.V1SelfSubjectAccessReviewSpec(resource_attributes=attributes),
    )
    answer = k8s.AuthorizationV1Api(api).create_self_subject_access_review(review)
    return bool(answer.status.allowed)


def queue(api: k8s.ApiClient, cluster: ClusterSettings) -> Iterator[Finding]:
    """Whether jobs would be let in, where they are to wait in a queue."""
    if not cluster.queue:
        return
    group, version, plural = QUEUES
    name = f"queue {cluster.queue}"
    try:
        found = k8s.CustomObjectsApi(api).get_namespaced_custom_object(
            group, version, cluster.namespace, plural, cluster.queue
        )
    except ApiException as error:
        if error.status == 403:
            yield skipped(name, "this account may not read it", "run the doctor with an administrator's KUBECONFIG")
        elif error.status == 404:
            remedy = f"install Kueue and make the LocalQueue {cluster.queue} (infra/kubernetes/overlays/kueue)"
            yield failed(name, f"is not in the namespace {cluster.namespace}", remedy)
        else:
            raise
        return
    yield judged_queue(name, found)


def judged_queue(name: str, found: dict[str, Any]) -> Finding:
    """What a LocalQueue says of itself."""
    status = found.get("status", {})
    active: dict[str, Any] = next((one for one in status.get("conditions", []) if one["type"] == "Active"), {})
    if active.get("status") == "False":
        why = active.get("message") or active.get("reason", "")
        return failed(name, f"is not active: {why}", "mend its ClusterQueue")
    waiting = status.get("pendingWorkloads", 0)
    return ok(name, f"of ClusterQueue {found.get('spec', {}).get('clusterQueue', '?')}; {waiting} jobs wait")


def gpus(api: k8s.ApiClient, cluster: ClusterSettings) -> Iterator[Finding]:
    """Whether there are nodes for what the assets ask."""
    asked = {asset: cluster.resources(asset) for asset in ["default", *cluster.assets]}
    distinct = {
        (resources.gpu_product, resources.gpus, resources.nodes): (asset, resources)
        for asset, resources in asked.items()
        if resources.gpus
    }
    if not distinct:
        yield ok("GPU nodes", "no asset asks for a GPU")
        return
    try:
        nodes = k8s.CoreV1Api(api).list_node().items
    except ApiException as error:
        if error.status != 403:
            raise
        yield skipped("GPU nodes", "this account may not list nodes", "run it with an administrator's KUBECONFIG")
        return
    for asset, resources in distinct.values():
        yield judged_nodes(asset, resources, nodes)


def judged_nodes(asset: str, resources: Resources, nodes: Sequence[k8s.V1Node]) -> Finding:
    """Whether enough nodes are of the kind that an asset asks for."""
    product = resources.gpu_product
    wanted = dict(resources.node_selector) | ({PRODUCT: product} if product else {})
    alike = [node for node in nodes if wanted.items() <= (node.metadata.labels or {}).items()]
    fit = [node for node in alike if _gpus(node) >= resources.gpus and _ready(node)]
    what, each = f"GPU nodes for {asset}", f"{resources.gpus} × {product or GPU}"
    if len(fit) >= resources.nodes:
        return ok(what, f"{len(fit)} with {each}, {resources.nodes} needed")
    if not alike:
        kinds = sorted({(node.metadata.labels or {}).get(PRODUCT, "") for node in nodes if _gpus(node)} - {""})
        there = f"there are {', '.join(kinds)}" if kinds else "no node offers a GPU"
        remedy = "correct gpu_product or node_selector in BACKDROP_CLUSTER; the GPU operator sets these labels"
        return failed(what, f"none is labelled {_labels(wanted)}; {there}", remedy)
    text = f"{len(fit)} ready with {each}, {resources.nodes} needed ({len(alike)} are of that kind)"
    return failed(what, text, "add nodes, or ask for less in BACKDROP_CLUSTER; where they are added on demand, go on")


def _gpus(node: k8s.V1Node) -> int:
    return int((node.status.allocatable or {}).get(GPU, "0"))


def _ready(node: k8s.V1Node) -> bool:
    return any(one.type == "Ready" and one.status == "True" for one in node.status.conditions or [])


def _labels(wanted: dict[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in wanted.items()) or f"with {GPU}"
