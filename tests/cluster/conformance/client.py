"""Jobs for the tests of the cluster, and the official client's view of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FAIL_ON_42 = {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}
IGNORE_DISRUPTION = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}


def job(name: str = "train", command: str = "true", *, completions: int = 1, **spec: Any) -> dict[str, Any]:
    """An Indexed job whose pods run a shell command; `spec` is laid over its spec, `gpus` and `pod` over its pods."""
    gpus, pod, labels = spec.pop("gpus", 0), spec.pop("pod", {}), spec.pop("labels", {})
    container: dict[str, Any] = {"name": "main", "image": "backdrop:1", "command": ["sh", "-c", command]}
    if gpus:
        container |= {"resources": {"limits": {"nvidia.com/gpu": str(gpus)}}}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]} | pod}
    whole = {"completions": completions, "parallelism": completions, "completionMode": "Indexed", "template": template}
    meta = {"name": name} | ({"labels": labels} if labels else {})
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": whole | spec}


class Api:
    """The official client in one namespace."""

    def __init__(self, kubeconfig: Path, namespace: str) -> None:
        from kubernetes import client, config

        shared = config.new_client_from_config(str(kubeconfig))
        self.namespace = namespace
        self.batch, self.core = client.BatchV1Api(shared), client.CoreV1Api(shared)
        self.custom, self.reviews = client.CustomObjectsApi(shared), client.AuthorizationV1Api(shared)

    def create(self, data: dict[str, Any]) -> Any:
        return self.batch.create_namespaced_job(self.namespace, data, field_validation="Strict")

    def job(self, name: str = "train") -> Any:
        return self.batch.read_namespaced_job(name, self.namespace)

    def pods(self, selector: str = "", **more: Any) -> list[Any]:
        items: list[Any] = self.core.list_namespaced_pod(self.namespace, label_selector=selector, **more).items
        return items

    def log(self, pod: str, **more: Any) -> str:
        # Without its own decoding, which makes `b'…'` of plain text.
        answer = self.core.read_namespaced_pod_log(pod, self.namespace, _preload_content=False, **more)
        return str(answer.data.decode())

    def conditions(self, name: str = "train") -> dict[str, tuple[str, str, str]]:
        """By type: value, reason and message of a job's conditions."""
        found = self.job(name).status.conditions or []
        return {c.type: (c.status, c.reason, c.message) for c in found}

    def events(self, reason: str) -> list[str]:
        """Messages of the events with this reason."""
        items = self.core.list_namespaced_event(self.namespace, field_selector=f"reason={reason}").items
        return [e.message for e in items]


def refusal(error: Any) -> tuple[int, str, str]:
    """Code, reason and message of the `Status` in a client's ApiException."""
    status = json.loads(error.body)
    assert status["kind"] == "Status"
    assert status["code"] == error.status
    return error.status, status["reason"], status["message"]
