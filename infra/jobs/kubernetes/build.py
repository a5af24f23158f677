"""A launch as Kubernetes objects; pure.

A job of several nodes is one computation: a pod that fails takes the Job with it, and the launcher makes the next
one, so that all ranks restart together. A job of slices is many computations: each index is retried by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from kubernetes import client as k8s

from infra.errors import BackdropError
from infra.jobs.kubernetes import variables
from infra.jobs.kubernetes.settings import ClusterSettings, Resources
from infra.jobs.process import EPHEMERAL_VARIABLE, LAUNCH_VARIABLE, SLICES_VARIABLE

APP = "backdrop"
APP_LABEL, RUN_LABEL, ASSET_LABEL, PARTITION_LABEL, LAUNCH_LABEL = (
    "app.kubernetes.io/name",
    "backdrop/run",
    "backdrop/asset",
    "backdrop/partition",
    "backdrop/launch",
)
KEY_ANNOTATION = "backdrop/key"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
GPU, PRODUCT = "nvidia.com/gpu", "nvidia.com/gpu.product"
CONTAINER = "job"
USER = 10_001
SCRATCH = "/scratch"

DETERMINISTIC = (2, BackdropError.exit_code)
"""Exit codes of wrong usage, and of wrong configuration or data: the same again would end the same."""


@dataclass(frozen=True)
class Launch:
    """One Job to be. `restart` counts the Jobs of this launch that a node took with it; `slices` is how many indexes
    work on their own, None for the nodes of one computation. `log`: where in the store its pods' logs go.
    """

    key: str
    launch: str
    asset: str
    partition: str
    run_id: str
    arguments: tuple[str, ...]
    resources: Resources
    restart: int = 0
    slices: int | None = None
    log: str = ""
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return job_name(self.asset, self.key, self.launch, self.restart)

    @property
    def nodes(self) -> int:
        return 1 if self.slices is not None else self.resources.nodes


def job_name(asset: str, key: str, launch: str, restart: int) -> str:
    """The same for everybody who asks for this launch: a second create is refused, and the job adopted."""
    digest = sha256(f"{key} {launch}".encode()).hexdigest()[:12]
    readable = "".join(c if c.isascii() and c.isalnum() else "-" for c in asset.lower())[:30].strip("-")
    stem = f"bd-{readable}-{digest}"
    return f"{stem}-r{restart}" if restart else stem


def build_job(launch: Launch, settings: ClusterSettings) -> k8s.V1Job:
    """The Job of a launch."""
    count = launch.slices if launch.slices is not None else launch.nodes
    retries = launch.resources.retries
    return k8s.V1Job(
        api_version="batch/v1",
        kind="Job",
        metadata=k8s.V1ObjectMeta(
            name=launch.name,
            namespace=settings.namespace,
            labels=labels_of(launch) | ({QUEUE_LABEL: settings.queue} if settings.queue else {}),
            annotations={KEY_ANNOTATION: launch.key},
        ),
        spec=k8s.V1JobSpec(
            completion_mode="Indexed",
            completions=count,
            parallelism=count,
            suspend=bool(settings.queue),
            backoff_limit=None if launch.slices is not None else retries if launch.nodes == 1 else 0,
            backoff_limit_per_index=retries if launch.slices is not None else None,
            pod_replacement_policy="Failed",  # a pod that still saves is not overtaken by its replacement
            pod_failure_policy=k8s.V1PodFailurePolicy(rules=_rules(launch)),
            ttl_seconds_after_finished=settings.ttl_s,
            template=_template(launch, settings),
        ),
    )


def build_service(launch: Launch, settings: ClusterSettings, job: k8s.V1Job) -> k8s.V1Service:
    """The headless Service that gives the pods of a computation stable names; it goes when its Job goes."""
    owner = k8s.V1OwnerReference(api_version="batch/v1", kind="Job", name=job.metadata.name, uid=job.metadata.uid)
    return k8s.V1Service(
        api_version="v1",
        kind="Service",
        metadata=k8s.V1ObjectMeta(
            name=launch.name, namespace=settings.namespace, labels=labels_of(launch), owner_references=[owner]
        ),
        spec=k8s.V1ServiceSpec(
            cluster_ip="None",
            selector={"batch.kubernetes.io/job-name": launch.name},
            publish_not_ready_addresses=True,  # ranks look for each other before any of them is ready
            ports=[k8s.V1ServicePort(name="rendezvous", port=variables.MASTER_PORT)],
        ),
    )


def labels_of(launch: Launch) -> dict[str, str]:
    found = {
        APP_LABEL: APP,
        RUN_LABEL: launch.run_id,
        ASSET_LABEL: launch.asset,
        PARTITION_LABEL: launch.partition,
        LAUNCH_LABEL: launch.launch,
    }
    return {name: label_value(value) for name, value in found.items() if value}


def label_value(text: str) -> str:
    """Text as a label's value: at most 63 letters, digits, '-', '_' and '.', the first and last no sign."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in text)[:63].strip("-_.")


def _rules(launch: Launch) -> list[k8s.V1PodFailurePolicyRule]:
    """What a failed pod means. Wrong configuration or data: no retry. A disruption: no failure, but a computation
    cannot go on without its node. Anything else counts against the retries.
    """
    final = "FailIndex" if launch.slices is not None else "FailJob"
    spared = "Ignore" if launch.nodes == 1 else "FailJob"
    disrupted = [k8s.V1PodFailurePolicyOnPodConditionsPattern(type="DisruptionTarget", status="True")]
    return [
        k8s.V1PodFailurePolicyRule(action=final, on_exit_codes=_exit_codes(*DETERMINISTIC)),
        k8s.V1PodFailurePolicyRule(action=spared, on_pod_conditions=disrupted),
        k8s.V1PodFailurePolicyRule(action=spared, on_exit_codes=_exit_codes(variables.PREEMPTED)),
    ]


def _exit_codes(*codes: int) -> k8s.V1PodFailurePolicyOnExitCodesRequirement:
    return k8s.V1PodFailurePolicyOnExitCodesRequirement(container_name=CONTAINER, operator="In", values=list(codes))


def _template(launch: Launch, settings: ClusterSettings) -> k8s.V1PodTemplateSpec:
    resources = launch.resources
    selector = dict(resources.node_selector) | ({PRODUCT: resources.gpu_product} if resources.gpu_product else {})
    return k8s.V1PodTemplateSpec(
        metadata=k8s.V1ObjectMeta(
            labels=labels_of(launch), annotations={**resources.annotations, KEY_ANNOTATION: launch.key}
        ),
        spec=k8s.V1PodSpec(
            restart_policy="Never",  # a failure policy asks for it
            subdomain=launch.name if launch.nodes > 1 else None,
            termination_grace_period_seconds=resources.grace_s,
            service_account_name=settings.service_account,
            automount_service_account_token=False,  # a job asks nothing of the cluster
            enable_service_links=False,
            priority_class_name=resources.priority_class,
            node_selector=selector or None,
            tolerations=[k8s.V1Toleration(**one.model_dump()) for one in resources.tolerations] or None,
            image_pull_secrets=[k8s.V1LocalObjectReference(name=name) for name in settings.image_pull_secrets] or None,
            security_context=pod_security(),
            containers=[_container(launch, settings)],
            volumes=[
                k8s.V1Volume(
                    name="shm", empty_dir=k8s.V1EmptyDirVolumeSource(medium="Memory", size_limit=resources.shm)
                ),
                k8s.V1Volume(name="scratch", empty_dir=k8s.V1EmptyDirVolumeSource(size_limit=resources.scratch)),
                k8s.V1Volume(name="tmp", empty_dir=k8s.V1EmptyDirVolumeSource()),
            ],
        ),
    )


def _container(launch: Launch, settings: ClusterSettings) -> k8s.V1Container:
    resources = launch.resources
    amounts = {"cpu": resources.cpu, "memory": resources.memory, "ephemeral-storage": resources.scratch}
    gpus = {GPU: str(resources.gpus)} if resources.gpus else {}
    return k8s.V1Container(
        name=CONTAINER,
        image=settings.image,
        command=[*settings.command, "-m", "infra.jobs.kubernetes.pod"],
        args=list(launch.arguments),
        env=[k8s.V1EnvVar(name=name, value=value) for name, value in sorted(_variables(launch, settings).items())],
        env_from=[
            *[k8s.V1EnvFromSource(config_map_ref=k8s.V1ConfigMapEnvSource(name=name)) for name in settings.config_maps],
            *[k8s.V1EnvFromSource(secret_ref=k8s.V1SecretEnvSource(name=name)) for name in settings.secrets],
        ]
        or None,
        # What it asks for is what it gets, but for the processor: more of that, where it is idle, harms nobody.
        resources=k8s.V1ResourceRequirements(requests={**amounts, **gpus}, limits={"memory": resources.memory, **gpus}),
        security_context=container_security(),
        volume_mounts=[
            k8s.V1VolumeMount(name="shm", mount_path="/dev/shm"),
            k8s.V1VolumeMount(name="scratch", mount_path=SCRATCH),
            k8s.V1VolumeMount(name="tmp", mount_path="/tmp"),
        ],
    )


def pod_security() -> k8s.V1PodSecurityContext:
    return k8s.V1PodSecurityContext(
        run_as_non_root=True,
        run_as_user=USER,
        run_as_group=USER,
        fs_group=USER,
        seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
    )


def container_security() -> k8s.V1SecurityContext:
    return k8s.V1SecurityContext(
        allow_privilege_escalation=False,
        read_only_root_filesystem=True,
        capabilities=k8s.V1Capabilities(drop=["ALL"]),
    )


def _variables(launch: Launch, settings: ClusterSettings) -> dict[str, str]:
    found = {
        "HOME": SCRATCH,
        "BACKDROP_STATE": SCRATCH,
        **settings.env,
        **launch.env,
        LAUNCH_VARIABLE: launch.launch,
        EPHEMERAL_VARIABLE: "1",
        variables.LOG: launch.log,
    }
    if launch.slices is not None:
        return found | {SLICES_VARIABLE: str(launch.slices)}
    return found | {
        variables.NODES: str(launch.nodes),
        variables.PROCESSES: str(max(1, launch.resources.gpus)),
        variables.MASTER: f"{launch.name}-0.{launch.name}" if launch.nodes > 1 else "127.0.0.1",
    }
