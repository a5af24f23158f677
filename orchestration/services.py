"""The embedded services around a command: up when the first user comes, down when the last one leaves.

On a cluster nothing is embedded, and the pod's own `dagster.yaml` is a mount that cannot be replaced.

Every user holds a shared lock on one file. The lock goes with the process, also after kill -9, so the next
command finds the services running, uses them, and stops them at its end if nobody else does.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console

from infra.errors import BackdropError
from infra.settings import REPOSITORY, Settings


@contextmanager
def services(settings: Settings, console: Console) -> Iterator[Mapping[str, str]]:
    """Yields the environment that `dagster.yaml` and every child read; on a cluster nothing: it is all there."""
    if settings.launcher == "kubernetes":
        check_given(settings, os.environ)
        yield {}
        return
    from infra.services import ensure_services, environment, stop_services

    settings.state.mkdir(parents=True, exist_ok=True)
    link_instance(settings)
    with (settings.state / "services.lock").open("a") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        with console.status("starting PostgreSQL and MLflow"):
            endpoints = ensure_services(settings)
        try:
            yield environment(endpoints, settings)
        finally:
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                console.print("[dim]the services stay up: another command is using them[/dim]")
            else:
                stop_services(settings)


def check_given(settings: Settings, environment: Mapping[str, str]) -> None:
    """Raises a BackdropError that names each service of the cluster whose address is not given."""
    needed = {
        "BACKDROP_CATALOG_URL": settings.catalog_url,
        "BACKDROP_DAGSTER_URL": settings.dagster_url,
        "BACKDROP_MLFLOW_URI": settings.mlflow_uri,
        "DAGSTER_HOME": environment.get("DAGSTER_HOME"),
    }
    if missing := [name for name, value in needed.items() if not value]:
        raise BackdropError(
            f"BACKDROP_LAUNCHER is kubernetes, and {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set",
            "run it where they are: kubectl -n backdrop exec deploy/backdrop-code-location -- backdrop …",
        )


def link_instance(settings: Settings) -> None:
    """The state folder is Dagster's home; its `dagster.yaml` is the repository's."""
    link = settings.state / "dagster.yaml"
    source = REPOSITORY / "dagster.yaml"
    if link.is_symlink() and link.resolve() == source.resolve():
        return
    link.unlink(missing_ok=True)
    try:
        link.symlink_to(source)
    except OSError:  # a file system without links
        shutil.copyfile(source, link)
