"""The manifests: what Kubernetes refuses, what this house refuses, and that code and manifests say the same."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.instance import PATCH, RESULT, TOP, production
from infra.jobs.kubernetes.build import APP, APP_LABEL, USER
from infra.jobs.kubernetes.rights import QUEUE_RIGHTS, RIGHTS, Right
from infra.jobs.kubernetes.settings import ClusterSettings
from infra.layers import merge
from infra.settings import REPOSITORY, Settings

FOLDER = REPOSITORY / "infra" / "kubernetes"
OVERLAYS = ["dev", "production", "kueue"]
NOT_KUBERNETES = {"kueue.x-k8s.io/v1beta1"}
PODS = {"Deployment", "Job", "CronJob"}
Object = dict[str, Any]


def files() -> list[Path]:
    """Every file of objects: not kustomize's own, and not what becomes a ConfigMap."""
    own = {"kustomization.yaml", "dagster.yaml", "dagster.production.yaml", "cluster.yaml", "workspace.yaml"}
    return sorted(path for path in FOLDER.rglob("*.yaml") if path.name not in own)


def objects(text: str) -> list[Object]:
    return [one for one in yaml.safe_load_all(text) if one is not None]


def everything() -> list[tuple[str, Object]]:
    return [
        (f"{path.relative_to(FOLDER)}:{one['kind']}/{one['metadata']['name']}", one)
        for path in files()
        for one in objects(path.read_text())
    ]


def named(kind: str) -> Iterator[tuple[str, Object]]:
    return ((name, one) for name, one in everything() if one["kind"] == kind)


def workloads(found: list[tuple[str, Object]]) -> list[tuple[str, Object, Object]]:
    """(name, object, pod template) of everything that makes pods."""
    pods = [(name, one, one["spec"].get("jobTemplate", one)) for name, one in found if one["kind"] in PODS]
    return [(name, one, holder["spec"]["template"]) for name, one, holder in pods]


def validate(one: Object) -> None:
    import kubernetes_validate

    if one["apiVersion"] not in NOT_KUBERNETES:
        kubernetes_validate.validate(one, "1.33", strict=True)


def check_pod(name: str, pod: Object, *, long_running: bool) -> None:
    """What every pod here must be; the namespace enforces most of it (pod-security: restricted)."""
    security = pod["securityContext"]
    assert security["runAsNonRoot"] is True, name
    assert security["runAsUser"] == USER, name
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
    # Kubernetes' variables for the Service backdrop-webserver begin with BACKDROP_: Settings would refuse them.
    assert pod["enableServiceLinks"] is False, name
    assert "hostPath" not in json.dumps(pod.get("volumes", [])), name
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        own = container["securityContext"]
        assert own["allowPrivilegeEscalation"] is False, name
        assert own["readOnlyRootFilesystem"] is True, name
        assert own["capabilities"] == {"drop": ["ALL"]}, name
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), name
        assert "memory" in container["resources"]["limits"], name
        for variable in container.get("env", []):
            if variable.get("value") != "" and re.search(r"URL|SECRET|PASSWORD|KEY|TOKEN|STORE_URI", variable["name"]):
                assert "secretKeyRef" in variable["valueFrom"], f"{name}: {variable['name']}"
        if long_running:
            assert {"livenessProbe", "readinessProbe"} <= container.keys(), name


def test_kubernetes_accepts_every_object() -> None:
    found = everything()
    assert len(found) > 40
    for name, one in found:
        try:
            validate(one)
        except Exception as error:
            pytest.fail(f"{name}: {error}")


def test_every_file_is_used() -> None:
    used = {
        (path.parent / entry).resolve()
        for path in FOLDER.rglob("kustomization.yaml")
        for entry in yaml.safe_load(path.read_text()).get("resources", [])
    }
    assert {path.resolve() for path in files()} <= used


def test_pods_are_restricted_probed_and_bounded() -> None:
    for name, one, template in workloads(everything()):
        check_pod(name, template["spec"], long_running=one["kind"] == "Deployment")


def test_no_secret_is_in_the_repository() -> None:
    assert not list(named("Secret"))
    for path in FOLDER.rglob("*"):
        if path.is_file():
            assert not re.search(r"://[^/\s:]+:[^/\s@]+@|(?i:aws_secret_access_key)\s*[=:]", path.read_text()), path


def test_images_are_pinned() -> None:
    for name, _, template in workloads(everything()):
        for container in template["spec"]["containers"]:
            image = container["image"]
            # kustomize's `images` name ours in each overlay.
            ours = image in {"backdrop-services", "backdrop-jobs"}
            assert ours or re.search(r":v?\d+\.\d+\.\d+$|@sha256:[0-9a-f]{64}$", image), name


def test_roles_are_the_rights_that_the_code_uses() -> None:
    granted = {
        one["metadata"]["name"]: {
            Right(group, resource, verb)
            for rule in one["rules"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
        }
        for _, one in named("Role")
    }
    queued = {f"{account}-queue": set(rights) for account, rights in QUEUE_RIGHTS.items()}
    assert granted == {account: set(rights) for account, rights in RIGHTS.items()} | queued
    assert not list(named("ClusterRole"))
    for name, binding in named("RoleBinding"):
        role = binding["metadata"]["name"]
        assert binding["roleRef"]["name"] == role, name
        account = role.removesuffix("-queue")
        subject = {"kind": "ServiceAccount", "name": account, "namespace": "backdrop"}
        assert binding["subjects"] == [subject], name
    assert {one["metadata"]["name"] for _, one in named("RoleBinding")} == set(granted)


def test_only_who_has_rights_gets_a_token() -> None:
    accounts = {one["metadata"]["name"] for _, one in named("ServiceAccount")}
    assert accounts == {*RIGHTS, "backdrop-job", "backdrop-service", "backdrop-studio"}
    assert not any(one["automountServiceAccountToken"] for _, one in named("ServiceAccount"))
    for name, _, template in workloads(everything()):
        pod = template["spec"]
        assert pod["automountServiceAccountToken"] == (pod["serviceAccountName"] in RIGHTS), name


def test_no_workload_looks_like_a_job_of_the_line() -> None:
    """The reaper removes what carries that label and has no run."""
    for name, one, template in workloads(everything()):
        for labels in (one["metadata"]["labels"], template["metadata"]["labels"]):
            assert labels[APP_LABEL] != APP, name


def test_selectors_meet_pods() -> None:
    labels = [template["metadata"]["labels"] for _, _, template in workloads(everything())]
    # Made at run time: by the launcher, and by Dagster.
    labels += [{APP_LABEL: APP}, {APP_LABEL: "dagster", "app.kubernetes.io/part-of": "backdrop"}]
    for _, one in everything():
        for selector in selectors(one):
            assert any(matches(selector, candidate) for candidate in labels), (one["metadata"]["name"], selector)


def selectors(one: Object) -> Iterator[Object]:
    if one["kind"] == "Service":
        yield {"matchLabels": one["spec"]["selector"]}
    elif one["kind"] == "PodDisruptionBudget":
        yield one["spec"]["selector"]
    elif one["kind"] == "NetworkPolicy":
        yield one["spec"]["podSelector"]
        for rule in [*one["spec"].get("ingress", []), *one["spec"].get("egress", [])]:
            for peer in [*rule.get("from", []), *rule.get("to", [])]:
                if "podSelector" in peer:
                    yield peer["podSelector"]


def matches(selector: Object, labels: dict[str, str]) -> bool:
    for rule in selector.get("matchExpressions", []):
        if (labels.get(rule["key"]) in rule["values"]) != (rule["operator"] == "In"):
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()


def test_nothing_may_talk_unless_it_is_said() -> None:
    policies = {one["metadata"]["name"]: one["spec"] for _, one in named("NetworkPolicy")}
    assert policies["deny-everything"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    # The pages have no login: only a proxy comes to the web server, only alerts to the studio.
    comes = {
        page: [name for name, spec in policies.items() if "ingress" in spec and _is_for(spec, page)]
        for page in ("dagster-webserver", "studio")
    }
    assert comes == {"dagster-webserver": ["dagster-from-oauth2-proxy"], "studio": ["studio"]}
    (rule,) = policies["studio"]["ingress"]
    assert rule["from"] == [{"podSelector": {"matchLabels": {APP_LABEL: "code-location"}}}]
    assert not [name for name, _ in named("Ingress") if "studio" in name]


def test_names_and_the_api_server_are_reached_wherever_they_are() -> None:
    policies = {one["metadata"]["name"]: one["spec"] for _, one in named("NetworkPolicy")}
    for name, ports in {"names": {53, 5353}, "bucket-and-api": {443, 6443, 8443, 16443}, "databases": {5432}}.items():
        (rule,) = policies[name]["egress"]
        assert rule.keys() == {"ports"}, name  # of a cluster's own addresses nothing is known here
        assert {one["port"] for one in rule["ports"]} == ports


def _is_for(spec: Object, name: str) -> bool:
    return matches(spec["podSelector"], {APP_LABEL: name})


def test_the_clusters_dagster_yaml_is_current() -> None:
    assert RESULT.read_text() == production(), "run `make manifests`"
    assert yaml.safe_load(RESULT.read_text()) == merge(*(yaml.safe_load(path.read_text()) for path in (TOP, PATCH)))


def test_merging_goes_key_by_key() -> None:
    below = {"a": {"b": 1, "c": [1]}, "d": 1}
    assert merge(below, {"a": {"c": [2]}, "e": 2}) == {"a": {"b": 1, "c": [2]}, "d": 1, "e": 2}
    assert below == {"a": {"b": 1, "c": [1]}, "d": 1}


def variables(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def test_the_settings_of_the_cluster_are_settings() -> None:
    from infra.services import NO_TELEMETRY

    base = variables(FOLDER / "base" / "settings.env")
    assert NO_TELEMETRY.items() <= base.items()
    for overlay in (None, "dev", "production"):
        own = variables(FOLDER / "overlays" / overlay / "settings.env") if overlay else {}
        settings = Settings.load(base | own)
        assert settings.launcher == "kubernetes"
        assert settings.store_uri.startswith("s3://")


def test_each_cluster_file_is_one() -> None:
    config_maps = {"backdrop"}
    for path in [FOLDER / "base", *(FOLDER / "overlays" / overlay for overlay in OVERLAYS)]:
        cluster = ClusterSettings.load(path / "cluster.yaml")
        assert cluster.namespace == "backdrop"
        assert cluster.service_account == "backdrop-job"
        assert set(cluster.config_maps) == config_maps
        assert "backdrop-databases" not in cluster.secrets  # a job has no business in Dagster's storage


def test_kueue_is_production_with_a_queue() -> None:
    both = [ClusterSettings.load(FOLDER / "overlays" / name / "cluster.yaml") for name in ("production", "kueue")]
    queues = [one for _, one in named("LocalQueue")]
    assert both[0].queue is None
    assert both[1] == both[0].model_copy(update={"queue": queues[0]["metadata"]["name"]})


def test_assets_of_a_cluster_file_exist() -> None:
    from orchestration.definitions import LINEAGE

    known = {asset.key.to_user_string() for asset in LINEAGE}
    for path in FOLDER.rglob("cluster.yaml"):
        assert set(ClusterSettings.load(path).assets) <= known, path
