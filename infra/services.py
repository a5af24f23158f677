"""The services the line stands on: PostgreSQL and MLflow, embedded unless a URL is given."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from infra.database import ensure_postgres, stop_postgres
from infra.database_url import CATALOG_DRIVER, LEGACY_DRIVER, check_database, is_postgresql, with_driver
from infra.errors import BackdropError
from infra.mlflow_server import ensure_mlflow, stop_mlflow, wait_for_mlflow
from infra.settings import Settings

__all__ = ["NO_TELEMETRY", "Endpoints", "ensure_services", "environment", "stop_services", "wait_for_mlflow"]

_LOCAL_HOSTS = ("127.0.0.1", "localhost")

#: Must be set before the packages are imported.
NO_TELEMETRY = {
    "DO_NOT_TRACK": "true",
    "DAGSTER_DISABLE_TELEMETRY": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
# MLflow's client prints a link for every run that ends; the assets' pages carry it.
_QUIET = {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true", "MLFLOW_LOGGING_LEVEL": "WARNING"}


@dataclass(frozen=True)
class Endpoints:
    """Where everything is; each URL with the driver that its client needs."""

    dagster_url: str
    mlflow_db_url: str
    catalog_url: str
    mlflow_uri: str
    state: Path


def ensure_services(settings: Settings) -> Endpoints:
    """Starts what is embedded and not running, checks what is given; quick when there is nothing to do.

    The databases answer when this returns. MLflow may still be booting: :func:`wait_for_mlflow`.
    """
    given = {
        "dagster": settings.dagster_url,
        "mlflow": settings.mlflow_db_url,
        "catalog": settings.catalog_url,
    }
    for name, url in given.items():
        if url:
            _check_given(name, url)
    if not all(given.values()):
        server = ensure_postgres(settings.state)
        given = {name: url or server.url(name) for name, url in given.items()}
    urls = {name: with_driver(str(url), _driver(name)) for name, url in given.items()}
    return Endpoints(
        dagster_url=urls["dagster"],
        mlflow_db_url=urls["mlflow"],
        catalog_url=urls["catalog"],
        mlflow_uri=settings.mlflow_uri or ensure_mlflow(settings.state, urls["mlflow"]),
        state=settings.state,
    )


def stop_services(settings: Settings) -> None:
    """Stops what is embedded; given services are not ours to stop."""
    stop_mlflow(settings.state)
    stop_postgres(settings.state)


def environment(endpoints: Endpoints, settings: Settings) -> dict[str, str]:
    """What `dagster.yaml` and every child read: URLs, absolute places, and telemetry off."""
    places = {"state": settings.state, "store": settings.store_uri, "config": settings.config}
    places |= {"images": settings.images, "watch": settings.watch, "samples": settings.samples}
    return {
        "DAGSTER_HOME": str(settings.state),
        "BACKDROP_DAGSTER_URL": endpoints.dagster_url,
        "BACKDROP_MLFLOW_DB_URL": endpoints.mlflow_db_url,
        "BACKDROP_CATALOG_URL": endpoints.catalog_url,
        "BACKDROP_MLFLOW_URI": endpoints.mlflow_uri,
        **{f"BACKDROP_{name.upper()}": str(place) for name, place in places.items() if place},
        **NO_TELEMETRY,
        **_QUIET,
        **_no_proxy(),
    }


def _driver(name: str) -> str:
    return CATALOG_DRIVER if name == "catalog" else LEGACY_DRIVER


def _check_given(name: str, url: str) -> None:
    variable = "BACKDROP_MLFLOW_DB_URL" if name == "mlflow" else f"BACKDROP_{name.upper()}_URL"
    if name != "mlflow" and not is_postgresql(url):
        raise BackdropError(
            f"{variable} does not name a PostgreSQL database",
            "write postgresql://user:password@host:port/database, or unset it to use the embedded server",
        )
    check_database(url, variable)


def _no_proxy() -> dict[str, str]:
    """Clients of the embedded servers must not go through a proxy that the machine may have."""
    for name in ("NO_PROXY", "no_proxy"):
        if os.environ.get(name):
            listed = os.environ[name].split(",")
            break
    else:
        listed = []
    value = ",".join([*listed, *(host for host in _LOCAL_HOSTS if host not in listed)])
    return {"NO_PROXY": value, "no_proxy": value}
