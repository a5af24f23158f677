"""Any cluster, by nothing but its API: what `make test-cluster` runs the launcher's tests on.

    BACKDROP_TEST_CLUSTER   a kubeconfig; its context's namespace is used, and emptied of our Jobs
    BACKDROP_TEST_IMAGE     an image in which `python -m fixture_room` and `python -m training` run
    BACKDROP_TEST_COMMAND   what runs python there (default: python)
    BACKDROP_TEST_STORE     an s3:// prefix that pods and this machine reach; with it BACKDROP_TEST_SECRET, whose keys
                            are its credentials in the pods

What a test asks of its cluster beyond the API (a command in place of the pod's own, rights taken away) skips it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, NoReturn

import pytest
from kubernetes import client as k8s
from kubernetes import config as configs

from infra.jobs.kubernetes.build import APP, APP_LABEL
from tests.cluster.server import Request

VARIABLE = "BACKDROP_TEST_CLUSTER"


class GivenCluster:
    """The part of `TestCluster` that every cluster has."""

    def __init__(self, kubeconfig: Path) -> None:
        self._kubeconfig = kubeconfig
        configuration = k8s.Configuration()
        configs.load_kube_config(str(kubeconfig), client_configuration=configuration)
        self._client = k8s.ApiClient(configuration)
        _, active = configs.list_kube_config_contexts(str(kubeconfig))
        self.namespace = active["context"].get("namespace", "default")

    def kubeconfig(self, path: Path) -> Path:
        shutil.copyfile(self._kubeconfig, path)
        return path

    @property
    def requests(self) -> list[Request]:
        """A create for each of our Jobs that is there: none of them goes before its test ends, but by a cancel."""
        return [Request(0.0, "POST", "/jobs", "") for _ in self.list("jobs", "batch")]

    def list(self, plural: str, group: str = "") -> list[dict[str, Any]]:
        """Ours of a kind, as plain objects."""
        core, batch = k8s.CoreV1Api(self._client), k8s.BatchV1Api(self._client)
        reads = {
            "jobs": batch.list_namespaced_job,
            "pods": core.list_namespaced_pod,
            "services": core.list_namespaced_service,
        }
        found = reads[plural](self.namespace, label_selector=f"{APP_LABEL}={APP}").items
        plain: list[dict[str, Any]] = self._client.sanitize_for_serialization(found)
        return plain

    def replace(self, pod: str, reason: str = "", message: str = "") -> None:
        """A disruption: the pod is evicted."""
        body = k8s.V1Eviction(metadata=k8s.V1ObjectMeta(name=pod, namespace=self.namespace))
        k8s.CoreV1Api(self._client).create_namespaced_pod_eviction(pod, self.namespace, body)

    def clear(self) -> None:
        """Deletes our Jobs with what belongs to them."""
        for job in self.list("jobs"):
            k8s.BatchV1Api(self._client).delete_namespaced_job(
                job["metadata"]["name"], self.namespace, propagation_policy="Background"
            )

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):
            raise AttributeError(name)
        pytest.skip(f"a cluster that is given has no '{name}'")

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_") and name != "namespace":
            pytest.skip(f"a cluster that is given has no '{name}'")
        super().__setattr__(name, value)


def settings() -> dict[str, Any]:
    """The launcher's settings for a given cluster; none for the tests' own."""
    if VARIABLE not in os.environ:
        return {}
    secret = os.environ.get("BACKDROP_TEST_SECRET")
    given: dict[str, Any] = {"secrets": (secret,)} if secret else {}
    if "BACKDROP_TEST_IMAGE" in os.environ:
        given |= {"image": os.environ["BACKDROP_TEST_IMAGE"], "env": {}}
        given |= {"command": tuple(os.environ.get("BACKDROP_TEST_COMMAND", "python").split())}
    return given
