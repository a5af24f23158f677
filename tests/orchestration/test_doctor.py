"""`backdrop doctor` and `backdrop migrate` against what they look at: PostgreSQL, a folder, S3, an HTTP server."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from deploy.signing import OWN_KEY, open_signer
from infra.object_store import ObjectStore
from infra.settings import REPOSITORY, Settings
from orchestration import doctor
from orchestration.doctor import State


class Tracking(BaseHTTPRequestHandler):
    """Of MLflow: its answer to a name it knows, and to one it does not."""

    def do_POST(self) -> None:
        known = self.headers["Host"].startswith("127.0.0.1")
        body = b"{}" if known else b"Invalid Host header - possible DNS rebinding attack detected"
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200 if known else 403)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def tracking() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Tracking) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as closed:  # bound, not listening: nobody else gets the port
        closed.bind(("127.0.0.1", 0))
        yield closed.getsockname()[1]


def test_a_store_is_written_read_and_left_as_it_was(store: ObjectStore, s3_store: ObjectStore) -> None:
    for place, remote in ((store, False), (s3_store, True)):
        assert doctor.store(place.uri, remote=remote).state == State.OK
        assert list(place.list("")) == []


def test_a_store_that_is_not_there_is_named(s3_store: ObjectStore, tmp_path: Path) -> None:
    missing = doctor.store("s3://no-such-bucket/prefix", remote=True)
    assert (missing.state, missing.remedy) == (State.FAILED, "create it or check the name")
    assert "s3://no-such-bucket/prefix cannot be written to" in missing.text
    (tmp_path / "file").write_text("")
    assert doctor.store(f"{tmp_path.as_uri()}/file", remote=False).state == State.FAILED
    assert "BACKDROP_STORE" in doctor.store(tmp_path.as_uri(), remote=True).remedy


def test_a_database_answers_or_is_named_without_its_password(database_url: str, closed_port: int) -> None:
    assert doctor.database("BACKDROP_CATALOG_URL", database_url, needed=True).state == State.OK
    away = f"postgresql://me:hunter2@127.0.0.1:{closed_port}/things"
    found = doctor.database("BACKDROP_CATALOG_URL", away, needed=True)
    assert found.state == State.FAILED
    assert f"'things' on 127.0.0.1:{closed_port}" in found.text
    assert "hunter2" not in str(found)
    assert "network policy" in found.remedy
    assert "network policy" not in doctor.database("BACKDROP_CATALOG_URL", away, needed=False).remedy
    assert doctor.database("BACKDROP_CATALOG_URL", None, needed=True).state == State.FAILED
    assert doctor.database("BACKDROP_CATALOG_URL", None, needed=False).state == State.SKIPPED
    assert doctor.database("BACKDROP_CATALOG_URL", "nonsense", needed=True).state == State.FAILED


def test_a_catalog_without_tables_is_to_be_migrated(database_url: str, catalog_url: str) -> None:
    # Both fixtures name one database, which catalog_url has migrated.
    assert doctor.tables(catalog_url).state == State.OK
    import psycopg

    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("DROP TABLE alembic_version")
    found = doctor.tables(catalog_url)
    assert (found.state, found.remedy) == (State.FAILED, "run `backdrop migrate`")


def test_dagsters_url_names_its_driver() -> None:
    assert doctor.driver("postgresql+psycopg2://u:p@h/d").state == State.OK
    found = doctor.driver("postgresql://u:hunter2@h/d")
    assert found.state == State.FAILED
    assert "hunter2" not in str(found)


def test_mlflow_answers_refuses_our_name_or_is_away(tracking: int, closed_port: int) -> None:
    assert doctor.mlflow(f"http://127.0.0.1:{tracking}", needed=True).state == State.OK
    refused = doctor.mlflow(f"http://localhost:{tracking}", needed=True)
    assert (refused.state, "403" in refused.text, "--allowed-hosts" in refused.remedy) == (State.FAILED, True, True)
    assert doctor.mlflow(f"http://127.0.0.1:{closed_port}", needed=True).state == State.FAILED
    assert doctor.mlflow(None, needed=True).state == State.FAILED


def test_the_key_that_signs_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = Settings(state=tmp_path, signing_key="env:A_PEM")
    assert doctor.signing(Settings(state=tmp_path), needed=False).state == State.SKIPPED
    without = doctor.signing(Settings(state=tmp_path), needed=True)
    assert (without.state, "backdrop-signing" in without.remedy) == (State.FAILED, True)
    assert doctor.signing(given, needed=True).state == State.FAILED
    signer = open_signer(None, tmp_path)
    pem = (tmp_path / OWN_KEY).read_text()
    monkeypatch.setenv("A_PEM", pem)
    found = doctor.signing(given, needed=True)
    assert (found.state, signer.public in found.text) == (State.OK, True)
    assert "BACKDROP_TRUSTED_KEYS" in found.text  # the studio has no key by which to know it
    assert pem.splitlines()[1] not in str(found)
    both = given.model_copy(update={"trusted_keys": f"{'0' * 64}, {signer.public}"})
    assert doctor.signing(both, needed=True).text == f"engines are signed by {signer.public}"
    another = doctor.signing(given.model_copy(update={"trusted_keys": "0" * 64}), needed=True)
    assert (another.state, "BACKDROP_TRUSTED_KEYS" in another.remedy) == (State.FAILED, True)
    assert doctor.signing(given.model_copy(update={"trusted_keys": "nonsense"}), needed=True).state == State.FAILED


def test_settings_that_do_not_load_are_all_that_is_said() -> None:
    said = StringIO()
    found = doctor.doctor(Console(file=said, width=60), {"BACKDROP_STOER": "x"})
    lines = said.getvalue().splitlines()
    assert ([one.state for one in found], len(lines)) == ([State.FAILED], 1)
    assert lines[0].startswith("failed")
    assert "Did you mean 'BACKDROP_STORE'?" in lines[0]
    assert " → " in lines[0]


def environment(**given: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("BACKDROP_")} | given


def backdrop(*arguments: str, **given: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "orchestration.cli", *arguments],
        cwd=REPOSITORY,
        env=environment(**given),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.integration
def test_the_exit_code_says_whether_something_failed(tmp_path: Path, closed_port: int) -> None:
    well = backdrop("doctor", BACKDROP_STATE=str(tmp_path))
    assert (well.returncode, "failed" in well.stdout) == (0, False), well.stderr
    url = f"postgresql://me:hunter2@127.0.0.1:{closed_port}/things"
    ill = backdrop("doctor", BACKDROP_STATE=str(tmp_path), BACKDROP_CATALOG_URL=url)
    assert ill.returncode == 1, ill.stderr
    assert all(" → " in line for line in ill.stdout.splitlines() if line.startswith("failed"))
    assert "hunter2" not in ill.stdout + ill.stderr


@pytest.mark.integration
def test_migrating_brings_all_three_databases_up_and_again_changes_nothing(database_url: str, tmp_path: Path) -> None:
    import psycopg

    (tmp_path / "dagster.yaml").write_bytes((REPOSITORY / "infra/kubernetes/base/dagster.yaml").read_bytes())
    urls = {}
    with psycopg.connect(database_url, autocommit=True) as connection:
        for name in ("catalog", "dagster", "mlflow"):
            own = f"{database_url.rpartition('/')[2]}_{name}"
            connection.execute(f"CREATE DATABASE {own}".encode())
            urls[name] = f"{database_url.rpartition('/')[0]}/{own}"
    given = {
        "BACKDROP_STATE": str(tmp_path),
        "DAGSTER_HOME": str(tmp_path),
        "BACKDROP_CATALOG_URL": urls["catalog"],
        "BACKDROP_DAGSTER_URL": urls["dagster"].replace("postgresql://", "postgresql+psycopg2://"),
        "BACKDROP_MLFLOW_DB_URL": urls["mlflow"],
    }
    password = urls["mlflow"].split(":")[2].split("@")[0]
    for _ in range(2):
        done = backdrop("migrate", **given)
        assert done.returncode == 0, done.stderr
        assert [line.split()[0] for line in done.stdout.splitlines() if "is current" in line] == [*urls]
        assert password not in done.stdout + done.stderr
    expected = {"catalog": "deliveries", "dagster": "runs", "mlflow": "experiments"}
    for name, table in expected.items():
        with psycopg.connect(urls[name]) as connection:
            assert connection.execute("SELECT to_regclass(%s)", (table,)).fetchone() != (None,), name
    healthy = backdrop("doctor", **given)
    assert healthy.returncode == 0, healthy.stdout
    with psycopg.connect(database_url, autocommit=True) as connection:
        for url in urls.values():
            connection.execute(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)".encode())


def test_nothing_to_migrate_is_an_error(tmp_path: Path) -> None:
    done = backdrop("migrate", BACKDROP_STATE=str(tmp_path))
    assert done.returncode == 42
    assert "BACKDROP_CATALOG_URL" in done.stderr


def test_a_finding_is_one_line() -> None:
    said = StringIO()
    doctor.show(Console(file=said, width=40), doctor.failed("x", "a\nb [bold]c", json.dumps({"d": "e" * 80})))
    assert said.getvalue().count("\n") == 1
    assert "[bold]c" in said.getvalue()
