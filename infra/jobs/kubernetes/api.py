"""The API server, which may be away: what it refuses for good is an error, everything else is tried again.

The stock client forgets a token that was renewed and gives up at the first 500.
"""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

import urllib3
from kubernetes import client as k8s
from kubernetes.client.exceptions import ApiException

from infra.errors import BackdropError, ServiceError
from infra.jobs.kubernetes.build import APP, APP_LABEL
from infra.jobs.kubernetes.connection import connect, reason, words

T = TypeVar("T")

log = logging.getLogger(__name__)

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 30.0
COMPLAIN_EVERY_S = 60.0
_PAGE = 500
_AWAY = {0, 408, 410, 429, 500, 502, 503, 504}
"""Not now. 0: TLS broke off; 410: the page of a list is too old."""


class Clock(Protocol):
    """Time, so that a test can let three days pass."""

    def now(self) -> datetime: ...

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


class RealClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Away(Exception):
    """The API server did not answer, or said that it cannot now."""


class Missing(Exception):
    """There is no such object."""


class Exists(Exception):
    """There is one of this name."""


class Refused(BackdropError):
    """The API server will not do it: a right is missing, or a policy or the object's form forbids it."""


class OverQuota(Exception):
    """The namespace's quota does not allow one more, now."""


class Api:
    """The calls that jobs need, in one namespace. `kubeconfig` is a file; None: the pod's own service account, or the
    user's default."""

    def __init__(self, namespace: str, kubeconfig: Path | None = None, clock: Clock | None = None) -> None:
        self.namespace = namespace
        self.clock = clock or RealClock()
        self._kubeconfig = kubeconfig
        self._complained = -COMPLAIN_EVERY_S
        self._client: k8s.ApiClient | None = None

    # Jobs and what belongs to them.

    def create_job(self, job: k8s.V1Job) -> k8s.V1Job:
        """Raises Exists and OverQuota."""
        return self._call("create jobs", lambda batch, _: batch.create_namespaced_job(self.namespace, job, **_STRICT))

    def create_service(self, service: k8s.V1Service) -> None:
        """Raises Exists."""
        self._call(
            "create services", lambda _, core: core.create_namespaced_service(self.namespace, service, **_STRICT)
        )

    def job(self, name: str) -> k8s.V1Job:
        """Raises Missing."""
        return self._call("get jobs", lambda batch, _: batch.read_namespaced_job(name, self.namespace))

    def label_job(self, name: str, labels: Mapping[str, str]) -> None:
        body = {"metadata": {"labels": dict(labels)}}
        self._call("patch jobs", lambda batch, _: batch.patch_namespaced_job(name, self.namespace, body))

    def jobs(self) -> list[k8s.V1Job]:
        """Every Job of ours."""
        selector = f"{APP_LABEL}={APP}"
        return self._pages(
            "list jobs",
            lambda batch, _, more: batch.list_namespaced_job(self.namespace, label_selector=selector, **more),
        )

    def pods(self, job: str, phase: str | None = None, most: int | None = None) -> list[k8s.V1Pod]:
        """The pods of a Job, in one phase if asked, `most` of them if asked."""
        pods: list[k8s.V1Pod] = []
        for page in self.pages_of_pods(job, phase, most):
            pods += page
        return pods

    def pages_of_pods(
        self, job: str, phase: str | None = None, most: int | None = None
    ) -> Iterator[Sequence[k8s.V1Pod]]:
        """The same, one page after the other: of thousands of slices not all are held at once."""
        chosen: dict[str, Any] = {"label_selector": f"batch.kubernetes.io/job-name={job}"}
        if phase is not None:
            chosen["field_selector"] = f"status.phase={phase}"
        return self._each_page(
            "list pods", lambda _, core, more: core.list_namespaced_pod(self.namespace, **chosen, **more), most
        )

    def events(self, name: str) -> list[k8s.CoreV1Event]:
        """What was said about an object of this name. It only explains: without it all goes on."""
        chosen = {"field_selector": f"involvedObject.name={name}"}
        try:
            return self._pages(
                "list events", lambda _, core, more: core.list_namespaced_event(self.namespace, **chosen, **more)
            )
        except (Refused, Away) as unexplained:
            log.debug("%s", unexplained)
            return []

    def workload(self, job: k8s.V1Job) -> Mapping[str, Any] | None:
        """Kueue's view of a Job; None where there is no Kueue, or where it must not be asked."""
        found = self._kueue(
            f"/apis/kueue.x-k8s.io/v1beta1/namespaces/{self.namespace}/workloads",
            {"labelSelector": f"kueue.x-k8s.io/job-uid={job.metadata.uid}"},
        )
        return found[0] if found else None

    def place_in_queue(self, queue: str, workload: Mapping[str, Any]) -> int | None:
        """How many are before it in its queue, where Kueue tells."""
        path = (
            f"/apis/visibility.kueue.x-k8s.io/v1beta1/namespaces/{self.namespace}/localqueues/{queue}/pendingworkloads"
        )
        name = workload["metadata"]["name"]
        places = [one["positionInLocalQueue"] for one in self._kueue(path, {}) if one["metadata"]["name"] == name]
        return places[0] if places else None

    def _kueue(self, path: str, query: Mapping[str, str]) -> list[Any]:
        def read(batch: k8s.BatchV1Api, core: k8s.CoreV1Api) -> Any:
            return batch.api_client.call_api(
                path,
                "GET",
                query_params=list(query.items()),
                response_types_map={200: "object"},
                auth_settings=["BearerToken"],
                _return_http_data_only=True,
            )

        try:
            return list(self._call("list workloads", read)["items"])
        except (Missing, Refused, Away):
            return []

    def delete_job(self, name: str, grace_s: int | None = None) -> None:
        """The Job with its pods and, by ownership, its Service; `grace_s` in place of the pods' own. None left is
        fine."""
        with contextlib.suppress(Missing):
            self._call(
                "delete jobs",
                lambda batch, _: batch.delete_namespaced_job(name, self.namespace, propagation_policy="Background"),
            )
        if grace_s is not None:
            for pod in self.pods(name):
                self._delete_pod(pod.metadata.name, grace_s)

    def _delete_pod(self, name: str, grace_s: int) -> None:
        with contextlib.suppress(Missing):
            self._call(
                "delete pods",
                lambda _, core: core.delete_namespaced_pod(name, self.namespace, grace_period_seconds=grace_s),
            )

    def persist(self, action: Callable[[], T], meanwhile: Callable[[], object] = lambda: None) -> T:
        """`action`, until the API server, or the store, is there; `meanwhile` is called between tries."""
        wait = FIRST_WAIT_S
        while True:
            try:
                return action()
            except (Away, ServiceError) as away:
                self.complain(away)
            meanwhile()
            self.clock.sleep(wait * random.uniform(0.5, 1.0))
            wait = min(2 * wait, LONGEST_WAIT_S)

    def complain(self, away: Exception) -> None:
        """One line a minute, however often something is away."""
        now = self.clock.monotonic()
        if now - self._complained >= COMPLAIN_EVERY_S:
            self._complained = now
            log.warning("the cluster or the store does not answer (%s); trying again", away)

    def _pages(self, what: str, read: Callable[[k8s.BatchV1Api, k8s.CoreV1Api, dict[str, Any]], Any]) -> list[Any]:
        return [one for page in self._each_page(what, read) for one in page]

    def _each_page(
        self, what: str, read: Callable[[k8s.BatchV1Api, k8s.CoreV1Api, dict[str, Any]], Any], most: int | None = None
    ) -> Iterator[Sequence[Any]]:
        seen = 0
        more: dict[str, Any] = {"limit": min(_PAGE, most or _PAGE)}

        def page(batch: k8s.BatchV1Api, core: k8s.CoreV1Api) -> Any:
            return read(batch, core, more)

        while True:
            some = self._call(what, page)
            yield some.items
            seen += len(some.items)
            more["_continue"] = some.metadata._continue
            if not some.metadata._continue or (most is not None and seen >= most):
                return

    def _call(self, what: str, call: Callable[[k8s.BatchV1Api, k8s.CoreV1Api], T]) -> T:
        """One call. A token that has expired is read anew, once."""
        try:
            return self._once(call)
        except ApiException as error:
            if error.status != 401:
                raise self._meaning(what, error) from error
        self._client = None
        try:
            return self._once(call)
        except ApiException as error:
            raise self._meaning(what, error) from error

    def _once(self, call: Callable[[k8s.BatchV1Api, k8s.CoreV1Api], T]) -> T:
        try:
            if self._client is None:
                self._client = connect(self._kubeconfig)
            return call(k8s.BatchV1Api(self._client), k8s.CoreV1Api(self._client))
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Away(f"{type(error).__name__}: {error}") from error

    def _meaning(self, what: str, error: ApiException) -> Exception:
        said = words(error)
        if error.status in _AWAY or error.status == 401:
            return Away(f"{error.status}: {said}")
        if error.status == 404:
            return Missing(said)
        if error.status == 409:  # a Conflict is a moment's: somebody else changed the quota, say
            return Exists(said) if reason(error) == "AlreadyExists" else Away(f"409: {said}")
        if error.status == 403 and "exceeded quota" in said:
            return OverQuota(said)
        if error.status == 403 and " cannot " in said:
            return Refused(
                f"the cluster does not allow to {what} in the namespace {self.namespace}: {said}",
                "give the service account that right (infra/kubernetes/base/rbac.yaml); `backdrop doctor` lists them",
            )
        return Refused(
            f"the cluster refused to {what}: {said}", "change what the message names, in the file BACKDROP_CLUSTER"
        )


_STRICT = {"field_validation": "Strict"}
