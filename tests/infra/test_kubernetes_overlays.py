"""What is applied: each overlay as kustomize builds it, and the run workers that Dagster makes of its configuration."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from infra.instance import RESULT
from infra.jobs.kubernetes.build import APP, APP_LABEL
from infra.settings import Settings
from tests.infra.test_kubernetes_manifests import FOLDER, OVERLAYS, Object, check_pod, objects, validate, workloads

SIGNING = "backdrop-signing"


def built(overlay: str) -> list[Object]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not on PATH: its kustomize builds the overlays")
    done = subprocess.run(
        ["kubectl", "kustomize", str(FOLDER / "overlays" / overlay)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return objects(done.stdout)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_whole(overlay: str) -> None:
    found = built(overlay)
    by_kind = {(one["kind"], one["metadata"]["name"]): one for one in found}
    assert len(by_kind) == len(found)
    for one in found:
        validate(one)
        if one["kind"] not in {"Namespace", "PriorityClass", "ClusterQueue", "ResourceFlavor"}:
            assert one["metadata"]["namespace"] == "backdrop", one["metadata"]
    named_here = [(f"{one['kind']}/{one['metadata']['name']}", one) for one in found]
    for name, one, template in workloads(named_here):
        check_pod(name, template["spec"], long_running=one["kind"] == "Deployment")
        for reference in references(template["spec"]):
            assert ("ConfigMap", reference) in by_kind, f"{name}: {reference}"
        for container in template["spec"]["containers"]:
            assert "/" in container["image"], name
            if overlay != "dev" and "oauth2" not in container["image"]:
                assert re.search(r"@sha256:[0-9a-f]{64}$", container["image"]), name
    location = by_kind["Deployment", "backdrop-code-location"]["spec"]["template"]["spec"]["containers"][0]
    environment = {one["name"]: one.get("value") for one in location["env"]}
    assert environment["DAGSTER_CURRENT_IMAGE"] == location["image"]  # what run workers run
    studio = by_kind["Deployment", "backdrop-studio"]["spec"]["template"]["spec"]["containers"][0]
    data = by_kind["ConfigMap", "backdrop"]["data"]
    assert Settings.load(data).mlflow_page  # a browser knows no name of the cluster
    cluster = yaml.safe_load(by_kind["ConfigMap", "backdrop-cluster"]["data"]["cluster.yaml"])
    assert studio["image"] == cluster["image"]  # what GPU jobs run
    assert cluster.get("queue") == ("backdrop" if overlay == "kueue" else None)
    assert yaml.safe_load(by_kind["ConfigMap", "backdrop-dagster"]["data"]["dagster.yaml"]) == yaml.safe_load(
        RESULT.read_text()
    )


def test_of_what_may_be_two_one_stays() -> None:
    found = built("production")
    budgets = [one["spec"] for one in found if one["kind"] == "PodDisruptionBudget"]
    for one in found:
        if one["kind"] == "Deployment" and one["spec"]["replicas"] > 1:
            selector = one["spec"]["selector"]
            assert [budget for budget in budgets if budget["selector"] == selector], one["metadata"]["name"]
            spread = one["spec"]["template"]["spec"]["topologySpreadConstraints"]
            assert [constraint["labelSelector"] for constraint in spread] == [selector]


def test_the_key_that_signs_is_with_those_who_sign_alone() -> None:
    """Run pods, which are made of dagster.yaml, and the doctor; no GPU job, no page, no service."""
    holders = {path.name for path in FOLDER.rglob("*.yaml") if SIGNING in path.read_text()}
    assert holders == {"dagster.yaml", "dagster.production.yaml", "doctor.yaml"}
    settings = dict(line.split("=", 1) for line in (FOLDER / "base/settings.env").read_text().split() if "=" in line)
    assert settings["BACKDROP_SIGNING_KEY"].startswith("env:")


def references(pod: Object) -> Iterator[str]:
    """The ConfigMaps that a pod needs."""
    for volume in pod.get("volumes", []):
        if "configMap" in volume:
            yield volume["configMap"]["name"]
    for container in pod["containers"]:
        for source in container.get("envFrom", []):
            if "configMapRef" in source:
                yield source["configMapRef"]["name"]


def test_a_run_worker_is_like_the_others(tmp_path: Path) -> None:
    """The Job that K8sRunLauncher makes of the patch."""
    from dagster import DagsterRun
    from dagster._config import process_config, resolve_to_config_type
    from dagster_k8s import K8sRunLauncher
    from dagster_k8s.job import construct_dagster_k8s_job
    from kubernetes.client import ApiClient

    kubeconfig = tmp_path / "config"
    cluster = {"name": "x", "cluster": {"server": "http://127.0.0.1:9"}}
    context = {"name": "x", "context": {"cluster": "x", "user": "x"}}
    users = [{"name": "x", "user": {"token": "x"}}]
    kubeconfig.write_text(
        json.dumps({"clusters": [cluster], "contexts": [context], "users": users, "current-context": "x"})
    )
    given = yaml.safe_load(RESULT.read_text())["run_launcher"]["config"]
    given |= {"load_incluster_config": False, "kubeconfig_file": str(kubeconfig)}
    checked = process_config(resolve_to_config_type(K8sRunLauncher.config_type()), given)
    assert checked.success, checked.errors
    launcher = K8sRunLauncher(**checked.value)
    container_context = launcher.get_container_context_for_run(DagsterRun(job_name="retrain"))
    job = construct_dagster_k8s_job(
        container_context.get_k8s_job_config(job_image="registry/services@sha256:0", run_launcher=launcher),
        args=["dagster", "api", "execute_run"],
        job_name="dagster-run-1",
        component="run_worker",
        user_defined_k8s_config=container_context.run_k8s_config,
    )
    data = ApiClient().sanitize_for_serialization(job)
    validate(data)
    template = data["spec"]["template"]
    pod = template["spec"]
    check_pod("run worker", pod, long_running=False)
    assert pod["serviceAccountName"] == "backdrop-run"
    container = pod["containers"][0]
    assert {one["name"] for one in container["volumeMounts"]} <= {one["name"] for one in pod["volumes"]}
    assert {"name": "DAGSTER_HOME", "value": "/state"} in container["env"]
    assert [one["name"] for one in container["env"]].count("BACKDROP_DAGSTER_URL") == 1
    assert {"secretRef": {"name": SIGNING}} in container["envFrom"]
    assert template["metadata"]["annotations"] == {
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
        "karpenter.sh/do-not-disrupt": "true",
    }
    assert template["metadata"]["labels"][APP_LABEL] == "dagster"  # what network.yaml calls it
    assert data["metadata"]["labels"][APP_LABEL] != APP
