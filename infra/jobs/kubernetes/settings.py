"""What the launcher is told about the cluster: one YAML file (`BACKDROP_CLUSTER`), unknown keys are errors."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from infra.errors import BackdropError, nearest


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Toleration(_Section):
    """As in a pod: a taint that does not keep it away."""

    key: str | None = None
    operator: Literal["Exists", "Equal"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None


class Resources(_Section):
    """What each pod of a job gets."""

    nodes: int = Field(1, ge=1, description="pods of one computation; all of them restart together")
    cpu: str = "4"
    memory: str = "16Gi"
    gpus: int = Field(0, ge=0)
    gpu_product: str | None = Field(None, description="the node's label nvidia.com/gpu.product")
    shm: str = Field("2Gi", description="/dev/shm; counts as memory")
    scratch: str = Field("50Gi", description="local disk for caches and checkpoints on their way to the store")
    node_selector: dict[str, str] = {}
    annotations: dict[str, str] = Field({}, description="of its pods: karpenter.sh/do-not-disrupt, say")
    tolerations: tuple[Toleration, ...] = ()
    priority_class: str | None = None
    retries: int = Field(3, ge=0, description="restarts after a failure; disruptions do not count")
    grace_s: int = Field(300, ge=1, description="seconds between SIGTERM and SIGKILL, in which a training saves")


class ClusterSettings(_Section):
    """A namespace, and how jobs run in it."""

    namespace: str = "backdrop"
    image: str = Field(description="the image of GPU jobs; by digest, so that a restart runs the same code")
    image_pull_secrets: tuple[str, ...] = ()
    command: tuple[str, ...] = Field(("python",), description="what runs `-m infra.jobs.kubernetes.pod …`")
    service_account: str = "backdrop-job"
    config_maps: tuple[str, ...] = Field((), description="whose keys become environment variables")
    secrets: tuple[str, ...] = Field((), description="whose keys become environment variables: database, bucket")
    env: dict[str, str] = Field({}, description="environment variables for every pod; nothing secret")
    queue: str | None = Field(None, description="a Kueue LocalQueue: jobs are created suspended and wait in it")
    ttl_s: int = Field(86_400, ge=60, description="how long a finished Job stays to be looked at")
    pull_patience_s: int = Field(600, ge=0, description="how long an image that cannot be pulled is waited for")
    slices: int = Field(1, ge=1, description="processes that scan and pack a delivery together")
    price_per_gpu_hour: float = Field(0.0, ge=0, description="in your currency; 0: no price is shown")
    default: Resources = Resources()
    assets: dict[str, Resources] = Field({}, description="by asset, where the default does not fit")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises BackdropError naming the key that is wrong, and the nearest known one."""
        try:
            return cls.model_validate(yaml.safe_load(path.read_text()) or {})
        except FileNotFoundError:
            raise BackdropError(f"there is no {path}", "BACKDROP_CLUSTER names the cluster's YAML file") from None
        except yaml.YAMLError as error:
            raise BackdropError(f"{path} is not YAML: {error}", "correct it") from None
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = [str(part) for part in first["loc"]]
            known = Resources.model_fields if len(place) > 1 else cls.model_fields
            hint = nearest(place[-1], known) if first["type"] == "extra_forbidden" else ""
            raise BackdropError(f"{path}: '{'.'.join(place)}': {first['msg']}.{hint}", "correct it") from None

    def resources(self, asset: str) -> Resources:
        """What a pod of this asset's job gets."""
        return self.assets.get(asset, self.default)
