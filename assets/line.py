"""What every asset needs to reach the world: settings, preset, store, catalog, tracking and the launcher.

One plain object, handed to the assets as the Dagster resource ``line``. Nothing is opened before it is used, so
that loading the definitions touches neither a database nor a heavy package.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

from infra.errors import BackdropError

if TYPE_CHECKING:
    from infra.catalog import Catalog
    from infra.jobs.events import Event
    from infra.jobs.kubernetes.launcher import KubernetesLauncher
    from infra.jobs.local import LocalLauncher
    from infra.jobs.warm import WarmInterpreter
    from infra.object_store import ObjectStore
    from infra.settings import Settings
    from infra.tracking import Tracking
    from training.presets import Preset


class Line:
    """The production line as one asset sees it. `listener` hears every job event beside Dagster and MLflow;
    jobs are forked from `warm` where there is one."""

    def __init__(
        self, listener: Callable[[str, Event], None] | None = None, warm: WarmInterpreter | None = None
    ) -> None:
        self.listener = listener
        self._warm = warm

    @cached_property
    def settings(self) -> Settings:
        from infra.settings import Settings

        return Settings.load()

    @cached_property
    def preset(self) -> Preset:
        from training.presets import load_preset

        return load_preset(self.settings.preset, self.settings.config)

    @cached_property
    def store(self) -> ObjectStore:
        from infra.object_store import open_store

        return open_store(self.settings.store_uri)

    @cached_property
    def catalog(self) -> Catalog:
        from infra.catalog import Catalog

        if not self.settings.catalog_url:
            raise BackdropError(
                "no catalog database is configured (BACKDROP_CATALOG_URL is empty)",
                "start the line with `make run` or `make ui`, which bring the embedded PostgreSQL up, or give a URL",
            )
        catalog = Catalog(self.settings.catalog_url)
        catalog.upgrade()
        return catalog

    @cached_property
    def tracking(self) -> Tracking:
        from infra.services import wait_for_mlflow
        from infra.tracking import Tracking

        if not self.settings.mlflow_uri:
            raise BackdropError(
                "no MLflow server is configured (BACKDROP_MLFLOW_URI is empty)",
                "start the line with `make run` or `make ui`, which bring the embedded server up, or give a URI",
            )
        wait_for_mlflow(self.settings)
        return Tracking(self.settings.mlflow_uri)

    @cached_property
    def launcher(self) -> LocalLauncher | KubernetesLauncher:
        if self.settings.launcher == "kubernetes":
            return self._on_cluster()
        from infra.jobs.local import LocalLauncher

        return LocalLauncher(self.settings.state, self.settings.store_uri, warm=self._warm)

    def _on_cluster(self) -> KubernetesLauncher:
        from infra.jobs.kubernetes.launcher import KubernetesLauncher
        from infra.jobs.kubernetes.settings import ClusterSettings

        if self.settings.cluster is None:
            raise BackdropError(
                "BACKDROP_LAUNCHER is kubernetes and no cluster is described (BACKDROP_CLUSTER is empty)",
                "give the path of its YAML file; infra/kubernetes/base/cluster.yaml is an example",
            )
        if not self.settings.store_uri.startswith("s3://"):
            raise BackdropError(
                f"the object store {self.settings.store_uri} is not one that pods can reach",
                "set BACKDROP_STORE to s3://bucket/prefix",
            )
        return KubernetesLauncher(ClusterSettings.load(self.settings.cluster), self.settings.store_uri)
