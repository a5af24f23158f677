"""What a Job's spec must obey beyond its schema, and which of its fields may change."""

from __future__ import annotations

from typing import Any

from tests.cluster.server import names
from tests.cluster.server.names import Causes, bad_value
from tests.cluster.server.objects import Object
from tests.cluster.server.pod_rules import check_pod_spec

_MOST_INDEXES = 100_000
_MOST_RULES, _MOST_VALUES = 20, 255
_IMMUTABLE = ("completionMode", "selector", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy")
_DIRECTIVES = ("affinity", "nodeSelector", "tolerations", "schedulingGates")


def check_job(job: Object) -> Causes:
    """What is wrong with a new job after defaults."""
    spec = job["spec"]
    causes = _selector(job) + _counts(spec) + _mode(job) + _per_index(spec)
    template = spec["template"]
    causes += names.labels(template.get("metadata", {}), "spec.template")
    causes += check_pod_spec(template["spec"], "spec.template.spec")
    restart = template["spec"]["restartPolicy"]
    if restart == "Always":
        why = 'Required value: valid values: "OnFailure", "Never"'
        causes.append(("spec.template.spec.restartPolicy", why))
    if "podFailurePolicy" in spec:
        causes += _failure_policy(spec)
        if restart != "Never":
            why = 'only "Never" is supported when podFailurePolicy is specified'
            causes.append(("spec.template.spec.restartPolicy", bad_value(restart, why)))
    return causes


def check_job_update(old: Object, new: Object) -> Causes:
    """What of a job was changed that must not change."""
    causes = _counts(new["spec"]) + _mode(new) + _per_index(new["spec"])
    was, spec = old["spec"], new["spec"]
    causes += [(f"spec.{f}", _immutable(spec.get(f))) for f in _IMMUTABLE if was.get(f) != spec.get(f)]
    if was.get("completions") != spec.get("completions") and not (
        # An elastic indexed job: both change together.
        spec["completionMode"] == "Indexed" and spec.get("completions") == spec["parallelism"]
    ):
        causes.append(("spec.completions", _immutable(spec.get("completions"))))
    if _fixed_template(old, was["template"]) != _fixed_template(old, spec["template"]):
        causes.append(("spec.template", _immutable("core.PodTemplateSpec{…}")))
    return causes


def _fixed_template(old: Object, template: Object) -> Object:
    """The part of a template that may not change: before a suspended job starts, not its scheduling directives."""
    if not (old["spec"].get("suspend") and "startTime" not in old.get("status", {})):
        return template
    meta = {k: v for k, v in template.get("metadata", {}).items() if k not in ("labels", "annotations")}
    return template | {"metadata": meta, "spec": {k: v for k, v in template["spec"].items() if k not in _DIRECTIVES}}


def _immutable(value: Any) -> str:
    return bad_value(value, "field is immutable")


def _selector(job: Object) -> Causes:
    """A job's selector is the server's, unless the client said that it gives its own."""
    spec = job["spec"]
    generated = {"matchLabels": {"batch.kubernetes.io/controller-uid": job["metadata"]["uid"]}}
    if spec.get("manualSelector") or spec.get("selector") == generated:
        return []
    return [("spec.selector", bad_value("…", "`selector` not auto-generated"))]


def _counts(spec: Object) -> Causes:
    fields = [
        *("parallelism", "completions", "backoffLimit", "backoffLimitPerIndex", "maxFailedIndexes"),
        *("activeDeadlineSeconds", "ttlSecondsAfterFinished"),
    ]
    why = "must be greater than or equal to 0"
    return [(f"spec.{f}", bad_value(spec[f], why)) for f in fields if spec.get(f, 0) < 0]


def _mode(job: Object) -> Causes:
    spec, mode = job["spec"], job["spec"]["completionMode"]
    if mode not in ("Indexed", "NonIndexed"):
        why = f'Unsupported value: "{mode}": supported values: "Indexed", "NonIndexed"'
        return [("spec.completionMode", why)]
    if mode == "NonIndexed":
        return []
    if "completions" not in spec:
        return [("spec.completions", "Required value: when completion mode is Indexed")]
    causes: Causes = []
    if spec["parallelism"] > _MOST_INDEXES:
        why = f"must be less than or equal to {_MOST_INDEXES} when completion mode is Indexed"
        causes.append(("spec.parallelism", bad_value(spec["parallelism"], why)))
    last = f"{job['metadata']['name']}-{max(0, spec['completions'] - 1)}"
    if len(last) > 63:
        why = f'will not able to create pod with invalid DNS label "{last}": must be no more than 63 characters'
        causes.append(("metadata.name", bad_value(job["metadata"]["name"], why)))
    return causes


def _per_index(spec: Object) -> Causes:
    causes: Causes = []
    indexed = spec["completionMode"] == "Indexed"
    for field in ("backoffLimitPerIndex", "maxFailedIndexes"):
        if field in spec and not indexed:
            causes.append((f"spec.{field}", bad_value(spec[field], "requires indexed completion mode")))
    if "maxFailedIndexes" in spec:
        if "backoffLimitPerIndex" not in spec:
            causes.append(("spec.backoffLimitPerIndex", "Required value: when maxFailedIndexes is specified"))
        if spec["maxFailedIndexes"] > spec.get("completions", 0):
            why = "must be less than or equal to completions when specified"
            causes.append(("spec.maxFailedIndexes", bad_value(spec["maxFailedIndexes"], why)))
    policies = ("Failed", "TerminatingOrFailed")
    policy = spec["podReplacementPolicy"]
    allowed = ("Failed",) if "podFailurePolicy" in spec else policies
    if policy not in allowed:
        values = ", ".join(f'"{p}"' for p in allowed)
        causes.append(("spec.podReplacementPolicy", f'Unsupported value: "{policy}": supported values: {values}'))
    return causes


def _failure_policy(spec: Object) -> Causes:
    rules = spec["podFailurePolicy"]["rules"]
    field = "spec.podFailurePolicy.rules"
    causes: Causes = []
    if len(rules) > _MOST_RULES:
        causes.append((field, f"Too many: {len(rules)}: must have at most {_MOST_RULES} items"))
    containers = {c["name"] for k in ("containers", "initContainers") for c in spec["template"]["spec"].get(k, [])}
    for number, rule in enumerate(rules):
        causes += _failure_rule(rule, f"{field}[{number}]", containers, per_index="backoffLimitPerIndex" in spec)
    return causes


def _failure_rule(rule: Object, field: str, containers: set[str], *, per_index: bool) -> Causes:
    causes: Causes = []
    actions = ("Count", "FailIndex", "FailJob", "Ignore") if per_index else ("Count", "FailJob", "Ignore")
    if rule["action"] not in actions:
        values = ", ".join(f'"{a}"' for a in actions)
        if rule["action"] == "FailIndex":
            why = bad_value("FailIndex", "requires the backoffLimitPerIndex to be set")
        else:
            why = f'Unsupported value: "{rule["action"]}": supported values: {values}'
        causes.append((f"{field}.action", why))
    codes, conditions = rule.get("onExitCodes"), rule.get("onPodConditions")
    if codes is not None and conditions:
        causes.append((field, bad_value("", "specifying both OnExitCodes and OnPodConditions is not supported")))
    elif codes is None and not conditions:
        causes.append((field, bad_value("", "specifying one of OnExitCodes and OnPodConditions is required")))
    if codes is not None:
        causes += _exit_codes(codes, f"{field}.onExitCodes", containers)
    for number, pattern in enumerate(conditions or []):
        if pattern["status"] not in ("True", "False", "Unknown"):
            why = f'Unsupported value: "{pattern["status"]}": supported values: "False", "True", "Unknown"'
            causes.append((f"{field}.onPodConditions[{number}].status", why))
    return causes


def _exit_codes(codes: Object, field: str, containers: set[str]) -> Causes:
    causes: Causes = []
    operator, values = codes["operator"], codes["values"]
    if operator not in ("In", "NotIn"):
        causes.append((f"{field}.operator", f'Unsupported value: "{operator}": supported values: "In", "NotIn"'))
    if codes.get("containerName", next(iter(containers), "")) not in containers:
        why = "must be one of the container or initContainer names in the pod template"
        causes.append((f"{field}.containerName", bad_value(codes["containerName"], why)))
    if not values:
        causes.append((f"{field}.values", bad_value("[]", "at least one value is required")))
    elif len(values) > _MOST_VALUES:
        causes.append((f"{field}.values", f"Too many: {len(values)}: must have at most {_MOST_VALUES} items"))
    for number, value in enumerate(values):
        if value == 0 and operator == "In":
            causes.append((f"{field}.values[{number}]", bad_value(0, "must not be 0 for the In operator")))
        if value in values[:number]:
            causes.append((f"{field}.values[{number}]", f"Duplicate value: {value}"))
    if values != sorted(values):
        causes.append((f"{field}.values", bad_value(values, "must be ordered")))
    return causes
