"""The embedded services around a command: up when the first user comes, down when the last one leaves.

Every user holds a shared lock on one file. The lock goes with the process, also after kill -9, so the next
command finds the services running, uses them, and stops them at its end if nobody else does.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console

from infra.settings import REPOSITORY, Settings


@contextmanager
def services(settings: Settings, console: Console) -> Iterator[Mapping[str, str]]:
    """Yields the environment that `dagster.yaml` and every child read."""
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
