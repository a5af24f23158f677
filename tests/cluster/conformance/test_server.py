"""The API server against Kubernetes' documented behaviour, seen through the official client."""

from __future__ import annotations

from typing import Any

import pytest
from kubernetes import watch
from kubernetes.client.exceptions import ApiException

from tests.cluster.clock import FakeClock
from tests.cluster.conformance.client import Api, job, refusal
from tests.cluster.server import TestCluster
from tests.cluster.world import wait_for

pytestmark = pytest.mark.integration


def refused(api: Api, data: dict[str, Any]) -> tuple[int, str, str]:
    with pytest.raises(ApiException) as caught:
        api.create(data)
    return refusal(caught.value)


# ---- what is refused
def test_an_unknown_field_is_refused_when_strict_and_dropped_with_a_warning_else(api: Api) -> None:
    data = job(suspend=True, backofLimit=3)
    code, reason, message = refused(api, data)
    assert (code, reason) == (400, "BadRequest")
    assert message == (
        'Job in version "v1" cannot be handled as a Job: strict decoding error: unknown field "spec.backofLimit"'
    )
    made, status, headers = api.batch.create_namespaced_job_with_http_info(api.namespace, data)
    assert status == 201
    assert made.spec.backoff_limit == 6
    assert headers["Warning"] == '299 - "unknown field \\"spec.backofLimit\\""'


@pytest.mark.parametrize(
    ("data", "field", "text"),
    [
        (job("Train"), "metadata.name", "a lowercase RFC 1123 subdomain must consist of"),
        (job("a" * 62, completions=2), "metadata.name", "must be no more than 63 characters"),
        (job(labels={"backdrop/run": "a b"}), "metadata.labels", "a valid label must be an empty string or consist of"),
        (job(labels={"backdrop/run": "a" * 64}), "metadata.labels", "must be no more than 63 characters"),
        (
            job(pod={"restartPolicy": "Always"}),
            "spec.template.spec.restartPolicy",
            'valid values: "OnFailure", "Never"',
        ),
        (
            job(template={"metadata": {"labels": {"a": "-"}}, **job()["spec"]["template"]}),
            "spec.template.labels",
            "a valid",
        ),
        (job(pod={"nodeSelector": {"a": "b c"}}), "spec.template.spec.nodeSelector", "a valid label must be"),
        (job(completionMode="Ordered"), "spec.completionMode", 'supported values: "Indexed", "NonIndexed"'),
        (job(maxFailedIndexes=1), "spec.backoffLimitPerIndex", "Required value: when maxFailedIndexes is specified"),
        (job(parallelism=-1), "spec.parallelism", "must be greater than or equal to 0"),
        (job(selector={"matchLabels": {"a": "b"}}), "spec.selector", "`selector` not auto-generated"),
        (job(pod={"containers": []}), "spec.template.spec.containers", "Required value"),
        (job(pod={"volumes": [{"name": "x"}]}), "spec.template.spec.volumes[0]", "must specify a volume type"),
        (
            job(
                podFailurePolicy={"rules": [{"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [1]}}]}
            ),
            "spec.podFailurePolicy.rules[0].action",
            "requires the backoffLimitPerIndex to be set",
        ),
        (
            job(
                podFailurePolicy={"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2, 1]}}]}
            ),
            "spec.podFailurePolicy.rules[0].onExitCodes.values",
            "must be ordered",
        ),
        (
            job(podFailurePolicy={"rules": []}, podReplacementPolicy="TerminatingOrFailed"),
            "spec.podReplacementPolicy",
            'supported values: "Failed"',
        ),
    ],
)
def test_what_kubernetes_refuses_is_refused_at_its_field(api: Api, data: dict[str, Any], field: str, text: str) -> None:
    code, reason, message = refused(api, data)
    assert (code, reason) == (422, "Invalid")
    assert message.startswith(f'Job.batch "{data["metadata"]["name"]}" is invalid: ')
    assert f"{field}: " in message
    assert text in message


def test_a_wrong_type_cannot_be_decoded(api: Api) -> None:
    code, _, message = refused(api, job(parallelism="two"))
    assert code == 400
    assert "cannot unmarshal string into Go struct field Job.spec.parallelism" in message


def test_a_gpu_must_be_a_limit(api: Api) -> None:
    container = {"name": "main", "image": "a:1", "resources": {"requests": {"nvidia.com/gpu": "1"}}}
    _, _, message = refused(api, job(pod={"containers": [container]}))
    assert "Limit must be set for non overcommitable resources" in message


def test_a_name_is_taken_once(api: Api) -> None:
    api.create(job(suspend=True))
    assert refused(api, job(suspend=True)) == (409, "AlreadyExists", 'jobs.batch "train" already exists')


def test_what_is_not_modelled_says_so(api: Api) -> None:
    code, reason, message = refused(api, job(pod={"restartPolicy": "OnFailure"}))
    assert (code, reason) == (501, "NotImplemented")
    assert message == "the test cluster does not model restartPolicy OnFailure"


# ---- what is filled in
def test_defaults(api: Api) -> None:
    made = api.create(job(suspend=True, podFailurePolicy={"rules": []}))
    spec, pod = made.spec, made.spec.template.spec
    assert (spec.backoff_limit, spec.suspend, spec.pod_replacement_policy) == (6, True, "Failed")
    assert (pod.termination_grace_period_seconds, pod.dns_policy, pod.scheduler_name) == (
        30,
        "ClusterFirst",
        "default-scheduler",
    )
    assert pod.containers[0].image_pull_policy == "IfNotPresent"
    assert spec.selector.match_labels == {"batch.kubernetes.io/controller-uid": made.metadata.uid}
    assert made.spec.template.metadata.labels["job-name"] == "train"
    assert made.metadata.generation == 1
    assert api.create(job("each", suspend=True, backoffLimitPerIndex=1)).spec.backoff_limit == 2**31 - 1


def test_a_generated_name(api: Api) -> None:
    data = job(suspend=True)
    data["metadata"] = {"generateName": "train-"}
    names = {api.create(data).metadata.name for _ in range(3)}
    assert len(names) == 3
    assert all(n.startswith("train-") and len(n) == len("train-") + 5 for n in names)


# ---- changes
def test_a_stale_version_is_a_conflict(api: Api) -> None:
    made = api.create(job(suspend=True))
    api.batch.patch_namespaced_job("train", api.namespace, {"metadata": {"labels": {"a": "b"}}})
    made.spec.parallelism = 0
    with pytest.raises(ApiException) as caught:
        api.batch.replace_namespaced_job("train", api.namespace, made)
    assert refusal(caught.value)[:2] == (409, "Conflict")
    assert "the object has been modified; please apply your changes to the latest version" in refusal(caught.value)[2]
    fresh = api.job()
    fresh.spec.parallelism = 0
    changed = api.batch.replace_namespaced_job("train", api.namespace, fresh)
    assert (changed.spec.parallelism, changed.metadata.generation) == (0, 2)


def test_what_may_not_change(api: Api) -> None:
    api.create(job(suspend=True))
    for patch in ({"completions": 5}, {"completionMode": "NonIndexed"}, {"backoffLimitPerIndex": 3}):
        with pytest.raises(ApiException) as caught:
            api.batch.patch_namespaced_job("train", api.namespace, {"spec": patch})
        assert "field is immutable" in refusal(caught.value)[2]
    image = {"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "other:2"}]}}}}
    with pytest.raises(ApiException) as caught:
        api.batch.patch_namespaced_job("train", api.namespace, image)
    assert refusal(caught.value)[:2] == (422, "Invalid")
    place = {"spec": {"template": {"spec": {"nodeSelector": {"kubernetes.io/hostname": "node-b"}}}}}
    api.batch.patch_namespaced_job("train", api.namespace, place)  # suspended and never started: as Kueue does it


def test_dry_run_changes_nothing(api: Api) -> None:
    api.batch.create_namespaced_job(api.namespace, job(), dry_run="All")
    assert not api.batch.list_namespaced_job(api.namespace).items


# ---- reading
def test_selectors(api: Api) -> None:
    for name, role in (("a", "train"), ("b", "train"), ("c", "curate")):
        api.create(job(name, suspend=True, labels={"role": role, name: ""}))

    def names(labels: str = "", fields: str = "") -> list[str]:
        found = api.batch.list_namespaced_job(api.namespace, label_selector=labels, field_selector=fields)
        return [j.metadata.name for j in found.items]

    assert names("role=train") == ["a", "b"]
    assert names("role!=train") == ["c"]
    assert names("role in (train,curate),!a") == ["b", "c"]
    assert names("role notin (curate), b") == ["b"]
    assert names(fields="metadata.name=c") == ["c"]
    with pytest.raises(ApiException) as caught:
        names(fields="spec.suspend=true")
    assert refusal(caught.value) == (400, "BadRequest", 'field label not supported: "spec.suspend"')


def test_pages_show_one_moment_and_expire(api: Api, cluster: TestCluster) -> None:
    for number in range(5):
        api.create(job(f"job-{number}", suspend=True))
    first = api.batch.list_namespaced_job(api.namespace, limit=2)
    assert first.metadata.remaining_item_count == 3
    api.create(job("job-0-late", suspend=True))
    more = first.metadata._continue
    rest = api.batch.list_namespaced_job(api.namespace, limit=5, _continue=more)
    assert [j.metadata.name for j in first.items + rest.items] == [f"job-{n}" for n in range(5)]
    cluster.compact()
    with pytest.raises(ApiException) as caught:
        api.batch.list_namespaced_job(api.namespace, limit=2, _continue=more)
    assert refusal(caught.value)[:2] == (410, "Expired")


def test_what_is_not_there(api: Api) -> None:
    with pytest.raises(ApiException) as caught:
        api.job("none")
    assert refusal(caught.value) == (404, "NotFound", 'jobs.batch "none" not found')
    with pytest.raises(ApiException) as caught:
        api.batch.create_namespaced_job("nowhere", job())
    assert refusal(caught.value)[2] == 'namespaces "nowhere" not found'


# ---- watches
def test_a_watch_goes_on_from_a_list_and_has_bookmarks(api: Api, clock: FakeClock, cluster: TestCluster) -> None:
    api.create(job("a", suspend=True, labels={"role": "train"}))
    wait_for(lambda: "Suspended" in api.conditions("a"), "the controller's word on the job, which is a change too")
    start = api.batch.list_namespaced_job(api.namespace).metadata.resource_version
    api.batch.patch_namespaced_job("a", api.namespace, {"metadata": {"labels": {"role": "other"}}})
    api.batch.delete_namespaced_job("a", api.namespace, propagation_policy="Background")
    options = {"resource_version": start, "allow_watch_bookmarks": True, "timeout_seconds": 90}
    stream = watch.Watch().stream(api.batch.list_namespaced_job, api.namespace, label_selector="role=train", **options)
    seen = [next(stream)]
    clock.advance(95)
    seen += list(stream)
    kinds = [e["type"] for e in seen]
    assert kinds == ["DELETED", "BOOKMARK", "BOOKMARK"]  # it ceased to match; then each minute, and at the end
    assert int(seen[-1]["raw_object"]["metadata"]["resourceVersion"]) > int(start)


def test_a_watch_without_a_version_begins_with_the_present(api: Api) -> None:
    api.create(job("a", suspend=True))
    stream = watch.Watch().stream(api.batch.list_namespaced_job, api.namespace)
    event = next(stream)
    assert (event["type"], event["object"].metadata.name) == ("ADDED", "a")


def test_a_watch_from_a_forgotten_version_is_gone(api: Api, cluster: TestCluster) -> None:
    start = api.batch.list_namespaced_job(api.namespace).metadata.resource_version
    api.create(job("a", suspend=True))
    cluster.settle()
    cluster.compact()
    with pytest.raises(ApiException) as caught:
        list(watch.Watch().stream(api.batch.list_namespaced_job, api.namespace, resource_version=start))
    assert caught.value.status == 410
    assert "too old resource version" in caught.value.reason


# ---- who may
def test_a_token_that_expired_is_401_and_the_file_has_the_new_one(
    api: Api, cluster: TestCluster, tmp_path: Any
) -> None:
    cluster.expire_tokens()
    with pytest.raises(ApiException) as caught:
        api.job()
    assert refusal(caught.value) == (401, "Unauthorized", "Unauthorized")
    assert not Api(tmp_path / "kubeconfig", api.namespace).pods()


def test_rights_are_worded_as_rbac_words_them(api: Api, cluster: TestCluster) -> None:
    cluster.rights = {("batch", "jobs", "get"), ("", "pods", "*")}
    user = f"system:serviceaccount:{api.namespace}:default"
    assert refused(api, job()) == (
        403,
        "Forbidden",
        f'jobs.batch is forbidden: User "{user}" cannot create resource "jobs" in API group "batch" in the namespace '
        f'"{api.namespace}"',
    )
    with pytest.raises(ApiException) as caught:
        api.core.read_namespaced_pod_log("a", api.namespace)
    assert 'cannot get resource "pods/log" in API group ""' in refusal(caught.value)[2]

    def allowed(verb: str, resource: str, group: str) -> bool:
        attributes = {"verb": verb, "resource": resource, "group": group, "namespace": api.namespace}
        review = {"spec": {"resourceAttributes": attributes}}
        return bool(api.reviews.create_self_subject_access_review(review).status.allowed)

    assert allowed("get", "jobs", "batch")
    assert allowed("list", "pods", "")
    assert not allowed("delete", "jobs", "batch")


def test_requests_are_counted(api: Api, cluster: TestCluster) -> None:
    api.create(job(suspend=True))
    api.job()
    assert [(r.method, r.path.rpartition("/")[2]) for r in cluster.requests] == [("POST", "jobs"), ("GET", "train")]
    assert cluster.requests[0].agent.startswith("OpenAPI-Generator/")
