"""Who may do what in the namespace: one list, from which `backdrop doctor` asks and against which the roles
in `infra/kubernetes` are held. Each right is there for a call that is named beside it; nothing else is.
"""

from __future__ import annotations

from dataclasses import dataclass

BATCH, CORE, KUEUE, VISIBILITY = "batch", "", "kueue.x-k8s.io", "visibility.kueue.x-k8s.io"


@dataclass(frozen=True, order=True)
class Right:
    """A verb on a resource (`pods`, or `pods/log` for a subresource) of an API group; "" is the core group."""

    group: str
    resource: str
    verb: str

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}{f'.{self.group}' if self.group else ''}"


#: A run worker: infra.jobs.kubernetes.api as the launcher uses it.
RUN = (
    Right(BATCH, "jobs", "create"),
    Right(BATCH, "jobs", "get"),
    Right(BATCH, "jobs", "patch"),  # whose run it is, when it is adopted
    Right(BATCH, "jobs", "delete"),
    Right(CORE, "services", "create"),
    Right(CORE, "pods", "list"),
    Right(CORE, "pods", "delete"),  # with five seconds of grace, when the user cancels
    Right(CORE, "events", "list"),
)
#: A run worker too, where there is a queue: why a job waits, and at which place. Without them it waits all the same.
QUEUE = (
    Right(KUEUE, "workloads", "list"),
    Right(VISIBILITY, "localqueues/pendingworkloads", "get"),
)
#: The code location, in which sensors are evaluated: the reaper.
CODE_LOCATION = (
    Right(BATCH, "jobs", "list"),
    Right(BATCH, "jobs", "delete"),
    Right(CORE, "pods", "list"),
    Right(CORE, "pods", "delete"),
)
#: The web server: K8sRunLauncher.terminate.
WEBSERVER = (
    Right(BATCH, "jobs", "delete"),
    Right(CORE, "pods", "list"),
    Right(CORE, "pods", "delete"),
)
#: The daemon: K8sRunLauncher's launch_run, check_run_worker_health, get_run_worker_debug_info and terminate.
DAEMON = (
    Right(BATCH, "jobs", "create"),
    Right(BATCH, "jobs", "list"),
    Right(BATCH, "jobs", "delete"),
    Right(BATCH, "jobs/status", "get"),
    Right(CORE, "pods", "list"),
    Right(CORE, "pods", "delete"),
    Right(CORE, "pods/log", "get"),
    Right(CORE, "events", "list"),
)

#: By service account. Whoever is not here (`backdrop-job`, `backdrop-service`) has no right and no token.
RIGHTS: dict[str, tuple[Right, ...]] = {
    "backdrop-run": RUN,
    "backdrop-code-location": CODE_LOCATION,
    "backdrop-webserver": WEBSERVER,
    "backdrop-daemon": DAEMON,
}
#: The same for what the overlay with a queue adds.
QUEUE_RIGHTS: dict[str, tuple[Right, ...]] = {"backdrop-run": QUEUE}
ALL = tuple(sorted({right for rights in RIGHTS.values() for right in rights}))
