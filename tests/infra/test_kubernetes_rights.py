"""Each service account's rights are enough, and each is needed: tried with one removed at a time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from dagster import DagsterInstance, DagsterRun
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.launcher import LaunchRunContext, WorkerStatus
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._core.test_utils import create_run_for_test
from dagster_k8s import K8sRunLauncher
from dagster_k8s.client import DagsterK8sUnrecoverableAPIError
from kubernetes import client as k8s

from infra.errors import BackdropError
from infra.instance import RESULT
from infra.jobs.kubernetes.api import Api
from infra.jobs.kubernetes.build import Launch, build_job, build_service
from infra.jobs.kubernetes.rights import CODE_LOCATION, DAEMON, QUEUE, RUN, WEBSERVER, Right
from infra.jobs.kubernetes.settings import ClusterSettings, Resources
from tests.cluster.server import TestCluster

pytestmark = pytest.mark.integration

SETTINGS = ClusterSettings(image="registry.example/jobs:1", service_account="default")
LAUNCH = Launch("key", "l1", "asset", "", "run", ("room", "verb"), Resources(cpu="1", memory="1Gi", shm="1Mi"))


@pytest.fixture
def cluster() -> Iterator[TestCluster]:
    """With what docs/cluster.md has people make. Its pods run until they are killed."""
    command = ["sh", "-c", "trap '' TERM; while true; do sleep 1; done"]
    with TestCluster(accounts=["default", "backdrop-run"], command=command) as running:
        for name in ("backdrop", "backdrop-cluster"):
            running.create("configmaps", {"metadata": {"name": name}, "data": {}})
        for name in ("backdrop-databases", "backdrop-catalog", "backdrop-store", "backdrop-signing"):
            data = {"BACKDROP_DAGSTER_URL": "eA=="}
            running.create("secrets", {"metadata": {"name": name}, "data": data, "type": "Opaque"})
        yield running


@pytest.fixture
def api(cluster: TestCluster, tmp_path: Path) -> Api:
    return Api("backdrop", cluster.kubeconfig(tmp_path / "kubeconfig"))


def grant(cluster: TestCluster, rights: tuple[Right, ...], without: Right | None) -> None:
    cluster.rights = {(right.group, right.resource, right.verb) for right in rights if right != without}


def is_refused(action: Callable[[], object]) -> bool:
    try:
        action()
    except (BackdropError, k8s.ApiException) as error:
        if isinstance(error, k8s.ApiException) and error.status != 403:
            raise
        return True
    return False


@pytest.mark.parametrize("missing", [None, *RUN], ids=str)
def test_a_run_worker(cluster: TestCluster, api: Api, missing: Right | None) -> None:
    said: list[k8s.CoreV1Event] = []

    def life() -> None:
        job = api.create_job(build_job(LAUNCH, SETTINGS))
        api.create_service(build_service(LAUNCH, SETTINGS, job))
        api.label_job(LAUNCH.name, {"backdrop/run": "another"})
        api.job(LAUNCH.name)
        cluster.wait_until(lambda: cluster.list("pods"))
        api.pods(LAUNCH.name)
        said.extend(api.events(LAUNCH.name))
        api.delete_job(LAUNCH.name, 0)

    grant(cluster, RUN, missing)
    # Events only explain: who may not read them goes on, and cannot say why a job waits.
    assert (is_refused(life) or not said) == (missing is not None)


@pytest.mark.parametrize("missing", [None, QUEUE[0]], ids=str)
def test_a_run_worker_sees_its_place_in_the_queue(cluster: TestCluster, api: Api, missing: Right | None) -> None:
    cluster.create("localqueues", {"metadata": {"name": "queue"}, "spec": {"clusterQueue": "queue"}}, "kueue.x-k8s.io")
    grant(cluster, RUN + QUEUE, missing)
    job = api.create_job(build_job(LAUNCH, SETTINGS.model_copy(update={"queue": "queue"})))
    cluster.wait_until(lambda: cluster.list("workloads", "kueue.x-k8s.io"))
    assert (api.workload(job) is None) == (missing is not None)


@pytest.mark.parametrize("missing", [None, *CODE_LOCATION], ids=str)
def test_the_reaper(cluster: TestCluster, api: Api, missing: Right | None) -> None:
    api.create_job(build_job(LAUNCH, SETTINGS))
    cluster.wait_until(lambda: cluster.list("pods"))
    grant(cluster, CODE_LOCATION, missing)
    assert is_refused(lambda: [api.delete_job(job.metadata.name, 0) for job in api.jobs()]) == (missing is not None)


@pytest.fixture
def dagster(cluster: TestCluster, tmp_path: Path) -> Iterator[tuple[K8sRunLauncher, DagsterRun]]:
    """The run launcher of the cluster's dagster.yaml, and a run."""
    config = yaml.safe_load(RESULT.read_text())["run_launcher"]["config"]
    path = str(cluster.kubeconfig(tmp_path / "kubeconfig"))
    launcher = K8sRunLauncher(**config, load_incluster_config=False, kubeconfig_file=path)
    instance = DagsterInstance.local_temp(str(tmp_path))
    launcher.register_instance(instance)
    repository = RepositoryPythonOrigin(
        executable_path=sys.executable,
        code_pointer=ModuleCodePointer("orchestration.definitions", "defs"),
        container_image="registry.example/services:1",
        entry_point=["dagster"],
        container_context=None,
    )
    origin = JobPythonOrigin(job_name="retrain", repository_origin=repository)
    yield launcher, create_run_for_test(instance, "retrain", job_code_origin=origin)
    instance.dispose()


def start(launcher: K8sRunLauncher, run: DagsterRun, cluster: TestCluster) -> None:
    launcher.launch_run(LaunchRunContext(dagster_run=run, workspace=None))
    cluster.wait_until(lambda: any(pod["status"].get("phase") == "Running" for pod in cluster.list("pods")))


@pytest.mark.parametrize("missing", [None, *DAEMON], ids=str)
def test_the_daemon(cluster: TestCluster, dagster: tuple[K8sRunLauncher, DagsterRun], missing: Right | None) -> None:
    launcher, run = dagster

    def suffers() -> bool:
        try:
            said = launcher.get_run_worker_debug_info(run)  # before there are pods: about the Job
            start(launcher, run, cluster)
            said = f"{said} {launcher.get_run_worker_debug_info(run)}"
        except DagsterK8sUnrecoverableAPIError as error:
            return error.k8s_api_exception.status == 403
        except k8s.ApiException as error:
            return error.status == 403
        healthy = launcher.check_run_worker_health(run).status == WorkerStatus.RUNNING
        return not (launcher.terminate(run.run_id) and healthy) or "Failure fetching" in said

    grant(cluster, DAEMON, missing)
    assert suffers() == (missing is not None)


@pytest.mark.parametrize("missing", [None, *WEBSERVER], ids=str)
def test_the_web_server(
    cluster: TestCluster, dagster: tuple[K8sRunLauncher, DagsterRun], missing: Right | None
) -> None:
    launcher, run = dagster
    start(launcher, run, cluster)
    grant(cluster, WEBSERVER, missing)
    assert bool(launcher.terminate(run.run_id)) == (missing is None)
