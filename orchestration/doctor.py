"""`backdrop doctor`: does what is installed work? One line for each thing, and what to do about it."""

from __future__ import annotations

import json
import secrets
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from rich.console import Console

from infra.errors import BackdropError
from infra.settings import Settings

PROBE = "doctor"
"""The folder of the probe objects in the store."""

_REACH = "start it, or correct {}; a port other than 5432 needs a network policy of its own (docs/cluster.md)"


class State(StrEnum):
    OK = "ok"
    FAILED = "failed"
    SKIPPED = "not checked"


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, how it is, and, where it is not well, what to do."""

    what: str
    state: State
    text: str
    remedy: str = ""


def ok(what: str, text: str) -> Finding:
    return Finding(what, State.OK, text)


def failed(what: str, text: str, remedy: str) -> Finding:
    return Finding(what, State.FAILED, text, remedy)


def skipped(what: str, text: str, remedy: str = "") -> Finding:
    return Finding(what, State.SKIPPED, text, remedy)


def doctor(console: Console, environment: Mapping[str, str] | None = None, *, pull: bool = False) -> list[Finding]:
    """Prints what it finds as it finds it, and returns it."""
    found = []
    for finding in examine(environment, pull=pull):
        show(console, finding)
        found.append(finding)
    return found


def show(console: Console, finding: Finding) -> None:
    colour = {State.OK: "green", State.FAILED: "bold red", State.SKIPPED: "yellow"}[finding.state]
    console.print(f"[{colour}]{finding.state:<11}[/] ", end="")
    remedy = f" → {finding.remedy}" if finding.remedy else ""
    # A line is a line, also where it is long: it is read by grep too.
    text = f"{finding.what}: {finding.text}{remedy}".replace("\n", " ")
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def examine(environment: Mapping[str, str] | None = None, *, pull: bool = False) -> Iterator[Finding]:
    """Everything, each as soon as it is known. `pull`: also run the image of GPU jobs once."""
    try:
        settings = Settings.load(environment)
    except BackdropError as error:
        yield failed("settings", error.what, error.remedy)
        return
    yield ok("settings", f"preset {settings.preset}, launcher {settings.launcher}")
    on_cluster = settings.launcher == "kubernetes"
    yield database("BACKDROP_CATALOG_URL", settings.catalog_url, needed=on_cluster)
    if settings.catalog_url:
        yield tables(settings.catalog_url)
    yield database("BACKDROP_DAGSTER_URL", settings.dagster_url, needed=on_cluster)
    if settings.dagster_url and on_cluster:
        yield driver(settings.dagster_url)
    yield database("BACKDROP_MLFLOW_DB_URL", settings.mlflow_db_url, needed=False)
    yield store(settings.store_uri, remote=on_cluster)
    yield mlflow(settings.mlflow_uri, needed=on_cluster)
    yield signing(settings, needed=on_cluster)
    if on_cluster:
        from orchestration.doctor_cluster import examine_cluster

        yield from examine_cluster(settings, pull=pull)


def database(variable: str, url: str | None, *, needed: bool) -> Finding:
    """Whether it answers and lets us in. Messages name host and database, never the password."""
    from infra.database_url import check_database, is_postgresql, place_of

    if not url:
        text = f"{variable} is empty"
        remedy = "give it by the secret backdrop-databases or backdrop-catalog (docs/cluster.md)"
        return failed(variable, text, remedy) if needed else skipped(variable, f"{text} here")
    try:
        check_database(url, variable)
    except BackdropError as error:
        return failed(variable, error.what, _REACH.format(variable) if needed else error.remedy)
    return ok(variable, f"the {place_of(url)} answers") if is_postgresql(url) else skipped(variable, "not PostgreSQL")


def tables(url: str) -> Finding:
    """Whether the catalog is at this version."""
    from infra.catalog import migrate
    from infra.catalog.connection import CatalogDatabase

    catalog = CatalogDatabase(url)
    try:
        with catalog.engine.connect() as connection:
            if migrate.is_current(connection):
                return ok("catalog", f"at revision {migrate.HEAD}")
        return failed("catalog", f"its tables are not at revision {migrate.HEAD}", "run `backdrop migrate`")
    except Exception as error:  # the line before says what is wrong with the database itself
        return failed("catalog", f"cannot be read ({type(error).__name__})", "mend BACKDROP_CATALOG_URL first")
    finally:
        catalog.close()


def driver(url: str) -> Finding:
    """Dagster reads its URL itself, and its PostgreSQL storage needs psycopg2."""
    from infra.database_url import LEGACY_DRIVER

    scheme = url.split("://", 1)[0]
    if scheme == LEGACY_DRIVER:
        return ok("dagster", f"its URL names the driver: {scheme}")
    return failed("dagster", f"its URL begins {scheme}://", f"write {LEGACY_DRIVER}:// into BACKDROP_DAGSTER_URL")


def signing(settings: Settings, *, needed: bool) -> Finding:
    """Whether engines can be signed with a key that outlives a run pod, and are trusted. Names its public half."""
    from deploy.signing import open_signer, trusted_keys

    if settings.signing_key is None:
        text = "BACKDROP_SIGNING_KEY is empty"
        remedy = "give it by the secret backdrop-signing (docs/cluster.md): a run pod's own key is gone with it"
        return failed("signing", text, remedy) if needed else skipped("signing", f"{text}: the line makes its own key")
    try:
        signer = open_signer(settings.signing_key, settings.state)
        trusted = trusted_keys(settings.trusted_keys, signer)
    except BackdropError as error:
        return failed("signing", error.what, error.remedy)
    text = f"engines are signed by {signer.public}"
    if signer.public not in trusted:
        return failed("signing", f"{text}, which is not trusted", "add it to BACKDROP_TRUSTED_KEYS")
    if needed and not settings.trusted_keys:
        text += "; the studio, which has no key, opens them once BACKDROP_TRUSTED_KEYS has this one"
    return ok("signing", text)


def store(uri: str, *, remote: bool) -> Finding:
    """Writes, reads, lists and deletes an object of its own."""
    from infra.object_store import open_store

    if remote and not uri.startswith("s3://"):
        return failed("store", f"{uri} is not one that pods can reach", "set BACKDROP_STORE to s3://bucket/prefix")
    key, data = f"{PROBE}/{secrets.token_hex(8)}", secrets.token_bytes(32)
    doing = "opened"
    try:
        place = open_store(uri)
        doing = "written to"
        place.put(key, data)
        doing = "read"
        if place.get(key) != data:
            return failed("store", f"{uri} gave back other bytes than were written", "check what is before the bucket")
        doing = "listed"
        if key not in list(place.list(f"{PROBE}/")):
            return failed("store", f"{uri} does not list what was written", "it has to be consistent, as S3 is")
        doing = "deleted from"
        place.delete(key)
        if place.exists(key):
            return failed("store", f"{uri} keeps what was deleted", "allow DeleteObject")
    except (BackdropError, OSError) as error:
        what = error.what if isinstance(error, BackdropError) else str(error)
        remedy = error.remedy if isinstance(error, BackdropError) else "check the folder's rights"
        return failed("store", f"{uri} cannot be {doing}: {what}", remedy)
    return ok("store", f"{uri}: written, read, listed, deleted")


def mlflow(uri: str | None, *, needed: bool) -> Finding:
    """Whether its interface answers under the name that we use: /health would, under any name."""
    if not uri:
        text = "BACKDROP_MLFLOW_URI is empty"
        return failed("MLflow", text, "set it to the server's address") if needed else skipped("MLflow", f"{text} here")
    body = json.dumps({"max_results": 1}).encode()
    address = f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/search"
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy knows no name of the cluster
    try:
        with opener.open(request, timeout=20) as answer:
            json.load(answer)
    except urllib.error.HTTPError as error:
        said = error.read(300).decode(errors="replace").strip()
        remedy = "add this host and port to its --allowed-hosts" if "Host" in said else "read that server's log"
        return failed("MLflow", f"{uri} answers {error.code}: {said}", remedy)
    except (OSError, ValueError) as error:
        return failed("MLflow", f"{uri} does not answer: {error}", "check BACKDROP_MLFLOW_URI and that server's log")
    return ok("MLflow", f"{uri} answers")
