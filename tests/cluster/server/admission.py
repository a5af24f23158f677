"""What decides about a new object after its defaults: accounts, priorities, quotas, and the test's own webhook."""

from __future__ import annotations

import functools
from collections.abc import Callable
from fractions import Fraction

from tests.cluster.server.errors import ApiError, forbidden
from tests.cluster.server.objects import Change, Key, Object, Store, clone
from tests.cluster.server.quantities import quantity
from tests.cluster.server.resources import ACCOUNTS, JOBS, PODS, PRIORITY_CLASSES, QUOTAS, Resource
from tests.cluster.server.scheduler import requests

# What a webhook says of an object: a refusal's text, or None.
Webhook = Callable[[Object], str | None]


class Accounts:
    """A pod's service account must exist; its priority class gives it a number."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __call__(self, resource: Resource, data: Object) -> None:
        if resource != PODS:
            return
        meta, spec = data["metadata"], data["spec"]
        account = spec["serviceAccountName"]
        if self._store.find(ACCOUNTS, (meta["namespace"], account)) is None:
            why = (
                f'error looking up service account {meta["namespace"]}/{account}: serviceaccount "{account}" not found'
            )
            raise forbidden(resource, meta["name"], why)
        name = spec.get("priorityClassName")
        if name:
            found = self._store.find(PRIORITY_CLASSES, ("", name))
            if found is None:
                raise forbidden(resource, meta["name"], f"no PriorityClass with name {name} was found")
            spec["priority"] = found["value"]
            spec["preemptionPolicy"] = found.get("preemptionPolicy", "PreemptLowerPriority")


class Webhooks:
    """Validating webhooks of the test."""

    def __init__(self) -> None:
        self.hooks: list[tuple[str, Webhook, int]] = []  # name, function, the code of its refusal

    def __call__(self, resource: Resource, data: Object) -> None:
        for name, hook, code in self.hooks:
            text = hook(data)
            if text is not None:
                message = f'admission webhook "{name}" denied the request: {text}'
                raise ApiError(code, "Forbidden" if code == 403 else "BadRequest", message)


class Quotas:
    """ResourceQuota on the counts of pods and jobs and on what pods ask for."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._held: dict[tuple[Resource, Key], dict[str, Fraction]] = {}
        self._used: dict[str, dict[str, Fraction]] = {}  # by namespace
        self._dirty = False
        store.observers.append(self._count)

    def __call__(self, resource: Resource, data: Object) -> None:
        wanted = _charges(resource, data)
        if not wanted:
            return
        meta = data["metadata"]
        used = self._used.get(meta["namespace"], {})
        for quota in self._store.all(QUOTAS, meta["namespace"]):
            hard = {n: quantity(v) for n, v in quota["spec"].get("hard", {}).items()}
            name = quota["metadata"]["name"]
            lacking = sorted(n for n in ("requests.cpu", "requests.memory") if n in hard and n not in wanted)
            if resource == PODS and lacking:
                containers = ",".join(sorted(c["name"] for c in data["spec"]["containers"]))
                text = "; ".join(f"{n} for: {containers}" for n in lacking)
                raise forbidden(resource, meta["name"], f"failed quota: {name}: must specify {text}")
            over = sorted(n for n in hard if n in wanted and used.get(n, Fraction(0)) + wanted[n] > hard[n])
            if over:
                lists = [
                    ",".join(f"{n}={_shown(amounts.get(n, Fraction(0)))}" for n in over)
                    for amounts in (wanted, used, hard)
                ]
                text = f"exceeded quota: {name}, requested: {lists[0]}, used: {lists[1]}, limited: {lists[2]}"
                raise forbidden(resource, meta["name"], text)

    def _count(self, change: Change) -> None:
        if change.resource == QUOTAS:
            self._dirty = True
        if change.resource not in (PODS, JOBS):
            return
        entry = (change.resource, change.key)
        used = self._used.setdefault(change.key[0], {})
        for name, amount in self._held.pop(entry, {}).items():
            used[name] -= amount
        if change.kind != "DELETED":
            self._held[entry] = _charges(change.resource, change.new.data)
            for name, amount in self._held[entry].items():
                used[name] = used.get(name, Fraction(0)) + amount
        self._dirty = True

    def observe(self, change: Change) -> None:
        return

    def step(self) -> None:
        """Writes what is used into the quotas' status."""
        if not self._dirty:
            return
        self._dirty = False
        for quota in list(self._store.all(QUOTAS)):
            meta, hard = quota["metadata"], quota["spec"].get("hard", {})
            used = self._used.get(meta["namespace"], {})
            status = {"hard": clone(hard), "used": {n: _shown(used.get(n, Fraction(0))) for n in hard}}
            if quota.get("status") != status:
                self._store.change(QUOTAS, (meta["namespace"], meta["name"]), functools.partial(_set_status, status))


def _set_status(status: Object, data: Object) -> None:
    data["status"] = status


def _charges(resource: Resource, data: Object) -> dict[str, Fraction]:
    """What an object takes of a quota, under each name that a quota may give it."""
    if resource == JOBS:
        return {"count/jobs.batch": Fraction(1)}
    if resource != PODS:
        return {}
    charges = {"count/pods": Fraction(1)}
    if data["status"]["phase"] in ("Succeeded", "Failed"):
        return charges
    for name, amount in requests(data["spec"]).items():
        if name == "pods":
            charges["pods"] = amount
        else:
            charges[f"requests.{name}"] = amount
            if name in ("cpu", "memory"):
                charges[name] = amount
    return charges


def _shown(amount: Fraction) -> str:
    if amount.denominator == 1:
        for suffix, scale in (("Gi", 1024**3), ("Mi", 1024**2)):
            if amount and amount % scale == 0:
                return f"{amount // scale}{suffix}"
        return str(amount.numerator)
    return f"{-(-amount * 1000 // 1)}m"
