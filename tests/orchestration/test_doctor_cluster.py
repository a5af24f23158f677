"""The doctor at a cluster: against the API server of the tests, over its socket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from infra.jobs.kubernetes.api import Api
from infra.jobs.kubernetes.rights import ALL, QUEUE, RIGHTS, Right
from infra.jobs.kubernetes.settings import ClusterSettings
from infra.settings import Settings
from orchestration import doctor_cluster
from orchestration.doctor import Finding, State
from orchestration.doctor_image import image
from tests.cluster.server import Node, TestCluster

pytestmark = pytest.mark.integration

IMAGE = "registry.example/jobs:1"
GIVEN = {
    "image": IMAGE,
    "service_account": "default",
    "queue": "backdrop",
    "pull_patience_s": 5,
    "assets": {"pretrained_dit": {"gpus": 8, "gpu_product": "NVIDIA-H100-80GB-HBM3", "nodes": 2}},
}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestCluster]:
    nodes = [Node("node-a", gpus=8), Node("node-b", gpus=8)]
    with TestCluster(nodes=nodes, command=lambda pod: 0, queues=["backdrop"]) as running:
        monkeypatch.setenv("KUBECONFIG", str(running.kubeconfig(tmp_path / "kubeconfig")))
        yield running


def findings(tmp_path: Path, *, pull: bool = False, **given: object) -> dict[str, Finding]:
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(GIVEN | given))
    settings = Settings(launcher="kubernetes", cluster=path)
    return {one.what: one for one in doctor_cluster.examine_cluster(settings, pull=pull)}


def told(rights: tuple[Right, ...]) -> set[tuple[str, str, str]]:
    return {(right.group, right.resource, right.verb) for right in rights}


def test_a_cluster_that_is_well(cluster: TestCluster, tmp_path: Path) -> None:
    found = findings(tmp_path, pull=True)
    assert {one.state for one in found.values()} == {State.OK}, found
    assert set(found) == {
        "cluster",
        "API server",
        "rights",
        "queue backdrop",
        "GPU nodes for pretrained_dit",
        "image",
    }
    assert cluster.list("jobs", "batch") == []  # the probe is gone


@pytest.mark.parametrize("pull", [False, True], ids=["look", "pull"])
@pytest.mark.parametrize("missing", [*ALL, *QUEUE], ids=str)
def test_each_right_that_is_missing_is_a_line(cluster: TestCluster, tmp_path: Path, missing: Right, pull: bool) -> None:
    cluster.authorizer.rights = told((*ALL, *QUEUE)) - told((missing,))
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(GIVEN))
    all_of_them = list(doctor_cluster.examine_cluster(Settings(launcher="kubernetes", cluster=path), pull=pull))
    wrong = [one for one in all_of_them if one.state == State.FAILED]
    tries = pull and str(missing) in {"create jobs.batch", "list pods"}  # without these no image is tried
    assert [one.what for one in wrong] == (["rights", "image"] if tries else ["rights"])
    assert str(missing) in wrong[0].text
    assert "rbac.yaml" in wrong[0].remedy


def test_a_service_account_is_asked_for_its_own_rights_only() -> None:
    for account, rights in RIGHTS.items():
        assert doctor_cluster.needed_by(f"system:serviceaccount:backdrop:{account}") == rights
    for other in ("", "jane", "system:serviceaccount:backdrop:default", "backdrop-run"):
        assert doctor_cluster.needed_by(other) == ALL
        assert doctor_cluster.needed_by(other, queue=True) == ALL + QUEUE
    with_queue = doctor_cluster.needed_by("system:serviceaccount:backdrop:backdrop-run", queue=True)
    assert with_queue == RIGHTS["backdrop-run"] + QUEUE
    daemon = "system:serviceaccount:backdrop:backdrop-daemon"
    assert doctor_cluster.needed_by(daemon, queue=True) == RIGHTS["backdrop-daemon"]


def test_what_an_account_may_not_see_is_not_called_wrong(cluster: TestCluster, tmp_path: Path) -> None:
    cluster.authorizer.rights = told((*ALL, *QUEUE))
    found = findings(tmp_path)
    assert found["rights"].state == State.OK
    assert found["queue backdrop"].state == State.SKIPPED
    assert found["GPU nodes"].state == State.SKIPPED


def test_a_queue_that_is_not_there(cluster: TestCluster, tmp_path: Path) -> None:
    found = findings(tmp_path, queue="other")["queue other"]
    assert (found.state, "Kueue" in found.remedy) == (State.FAILED, True)
    inactive = {"status": {"conditions": [{"type": "Active", "status": "False", "message": "no ClusterQueue"}]}}
    assert doctor_cluster.judged_queue("q", inactive).state == State.FAILED


def test_nodes_of_another_kind_or_too_few(cluster: TestCluster, tmp_path: Path) -> None:
    other = {"assets": {"pretrained_dit": {"gpus": 1, "gpu_product": "NVIDIA-B200"}}}
    found = findings(tmp_path, **other)["GPU nodes for pretrained_dit"]
    assert found.state == State.FAILED
    assert "NVIDIA-H100-80GB-HBM3" in found.text
    many = {"assets": {"pretrained_dit": {"gpus": 8, "nodes": 3}}}
    found = findings(tmp_path, **many)["GPU nodes for pretrained_dit"]
    assert found.state == State.FAILED
    assert "2 ready" in found.text
    assert findings(tmp_path, assets={})["GPU nodes"].state == State.OK


def test_an_image_that_cannot_be_pulled_is_told_in_the_clusters_words(cluster: TestCluster, tmp_path: Path) -> None:
    cluster.unpullable.add(IMAGE)
    found = findings(tmp_path, pull=True)["image"]
    assert found.state == State.FAILED
    assert "ErrImagePull" in found.text or "ImagePullBackOff" in found.text
    assert cluster.list("jobs", "batch") == []


def test_trying_an_image_needs_the_launchers_own_rights_only(cluster: TestCluster, tmp_path: Path) -> None:
    cluster.authorizer.rights = told(RIGHTS["backdrop-run"])
    settings = ClusterSettings.model_validate(GIVEN)
    assert image(Api("backdrop", tmp_path / "kubeconfig"), settings).state == State.OK
    cluster.authorizer.rights = told(RIGHTS["backdrop-code-location"])
    assert image(Api("backdrop", tmp_path / "kubeconfig"), settings).state == State.FAILED


def test_no_api_server_no_token_and_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with TestCluster() as away:
        monkeypatch.setenv("KUBECONFIG", str(away.kubeconfig(tmp_path / "kubeconfig")))
    found = findings(tmp_path)
    assert (list(found), found["API server"].state) == (["cluster", "API server"], State.FAILED)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    assert findings(tmp_path)["cluster"].state == State.FAILED
    assert findings(tmp_path, nmaespace="x")["cluster"].state == State.FAILED


def test_a_token_that_is_not_taken(cluster: TestCluster, tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    config = yaml.safe_load(path.read_text())
    config["users"][0]["user"] = {"token": "old"}
    path.write_text(yaml.safe_dump(config))
    found = findings(tmp_path)["API server"]
    assert (found.state, found.remedy) == (State.FAILED, "log in again")
