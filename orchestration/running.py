"""Which services are up, found out without starting or stopping any."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from infra.database_url import CATALOG_DRIVER, LEGACY_DRIVER, check_database, with_driver
from infra.errors import BackdropError
from infra.processes import answers
from infra.settings import Settings

HOW_TO_START = "`make ui` brings them up and keeps them; `backdrop status --start` does for one look"


@dataclass(frozen=True)
class Service:
    """One of them. `given`: it is named by a URL, and nobody here starts it; `said`: what is wrong with it."""

    name: str
    up: bool
    where: str
    given: bool
    said: str = ""


@dataclass(frozen=True)
class Look:
    """The services, and what to lay over the environment to use them; None where the databases are away."""

    services: tuple[Service, ...]
    environment: dict[str, str] | None

    @property
    def mlflow_up(self) -> bool:
        return any(one.up for one in self.services if one.name == "MLflow")


def look(settings: Settings) -> Look:
    """Asks each for an answer; a few hundredths of a second where all are on this machine."""
    given = {"dagster": settings.dagster_url, "mlflow": settings.mlflow_db_url, "catalog": settings.catalog_url}
    needed = ("dagster", "catalog") if settings.mlflow_uri else tuple(given)
    services = []
    embedded = None
    if any(not given[name] for name in needed):
        port, embedded = _embedded_postgres(settings.state)
        up = embedded is not None
        services.append(Service("PostgreSQL", up, f"127.0.0.1:{port}" if port else "", False))
    for name in needed:
        if url := given[name]:
            services.append(_given_database(name, url))
    urls = {name: url or (embedded(name) if embedded else "") for name, url in given.items()}
    uri, mlflow = _mlflow(settings)
    services.append(mlflow)
    usable = all(one.up for one in services[:-1])
    return Look(tuple(services), _environment(settings, urls, uri) if usable else None)


@contextmanager
def kept_up(settings: Settings) -> Iterator[None]:
    """Keeps others from stopping the embedded services meanwhile. Whoever would have stopped them last cannot then: it
    is done here, unless nobody used them to begin with."""
    from infra.services import stop_services

    path = settings.state / "services.lock"
    if not path.exists():  # nothing is embedded
        yield
        return
    with path.open("a") as users:
        unused = _try(users.fileno(), fcntl.LOCK_EX)
        fcntl.flock(users, fcntl.LOCK_SH)
        try:
            yield
        finally:
            if not unused and _try(users.fileno(), fcntl.LOCK_EX):
                stop_services(settings)


def _try(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _embedded_postgres(state: Path) -> tuple[int | None, Callable[[str], str] | None]:
    """(its port, or None where there never was one; what gives the URL of a database, None where it is down)."""
    from infra.database import Postgres

    try:
        record = json.loads((state / "postgres.json").read_text())
        server = Postgres(Path(record["home"]), int(record["port"]), str(record["password"]))
    except (OSError, ValueError, KeyError):
        return None, None
    up = bool(server.port) and (server.data / "postmaster.pid").exists() and answers(server.port)
    return server.port or None, server.url if up else None


def _given_database(name: str, url: str) -> Service:
    from infra.database_url import is_postgresql, place_of

    variable = "BACKDROP_MLFLOW_DB_URL" if name == "mlflow" else f"BACKDROP_{name.upper()}_URL"
    try:
        check_database(url, variable)
    except BackdropError as error:
        return Service(f"PostgreSQL ({name})", False, "", True, error.what)
    return Service(f"PostgreSQL ({name})", True, place_of(url) if is_postgresql(url) else "", True)


def _mlflow(settings: Settings) -> tuple[str, Service]:
    from infra.mlflow_server import MlflowServer, wait_for_mlflow

    given = settings.mlflow_uri
    if given:
        uri = given
    else:
        try:
            uri = MlflowServer.model_validate_json((settings.state / "mlflow.json").read_text()).uri
        except (OSError, ValueError):
            return "", Service("MLflow", False, "", False)
    try:
        wait_for_mlflow(settings.model_copy(update={"mlflow_uri": uri}), timeout=0)
    except BackdropError as error:
        return uri, Service("MLflow", False, uri, bool(given), error.what if given else "")
    return uri, Service("MLflow", True, uri, bool(given))


def _environment(settings: Settings, urls: dict[str, str], mlflow: str) -> dict[str, str]:
    from infra.services import Endpoints, environment

    ends = Endpoints(
        dagster_url=with_driver(urls["dagster"], LEGACY_DRIVER),
        mlflow_db_url=with_driver(urls["mlflow"], LEGACY_DRIVER),
        catalog_url=with_driver(urls["catalog"], CATALOG_DRIVER),
        mlflow_uri=mlflow,
        state=settings.state,
    )
    found = environment(ends, settings)
    if settings.launcher == "kubernetes" and "DAGSTER_HOME" in os.environ:
        found["DAGSTER_HOME"] = os.environ["DAGSTER_HOME"]
    return found
