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
    def launcher(self) -> LocalLauncher:
        from infra.jobs.local import LocalLauncher

        return LocalLauncher(self.settings.state, self.settings.store_uri, warm=self._warm)
