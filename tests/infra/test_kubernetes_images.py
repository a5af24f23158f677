"""The Dockerfiles, read: they cannot be built where there is no registry."""

from __future__ import annotations

import fnmatch
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires

import pytest
from packaging.requirements import Requirement

from infra.docker.lock import COMPUTE, chosen
from infra.jobs.kubernetes.build import USER
from infra.settings import REPOSITORY

FOLDER = REPOSITORY / "infra" / "docker"
IMAGES = ["services", "jobs"]
ROOMS = ["orchestration", "assets", "training", "evaluation", "deploy", "infra"]
LOCK, PROJECT = (REPOSITORY / "requirements.txt").read_text(), (REPOSITORY / "pyproject.toml").read_text()


def steps(image: str) -> list[tuple[str, str]]:
    """(instruction, arguments) in order, with lines continued and comments gone."""
    text = (FOLDER / f"{image}.Dockerfile").read_text()
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines if line.strip())]


def copied(image: str) -> list[str]:
    """What is copied from the repository."""
    from_here = [rest.split() for name, rest in steps(image) if name == "COPY" and "--from=" not in rest]
    return [source for words in from_here for source in words[:-1]]


@pytest.mark.parametrize("image", IMAGES)
def test_what_is_copied_exists_and_is_let_through(image: str) -> None:
    rules = (FOLDER / f"{image}.Dockerfile.dockerignore").read_text().splitlines()
    rules = [rule for rule in rules if rule and not rule.startswith("#")]
    assert rules[0] == "*"  # nothing by accident
    for source in copied(image):
        assert (REPOSITORY / source).exists(), source
        allowed = False
        for rule in rules:
            pattern = rule.lstrip("!")
            if fnmatch.fnmatch(source, pattern) or source.startswith(f"{pattern}/"):
                allowed = rule.startswith("!")
        assert allowed, source
    assert set(ROOMS) <= set(copied(image))


@pytest.mark.parametrize("image", IMAGES)
def test_the_last_stage_is_no_root_and_has_no_entry_point(image: str) -> None:
    found = steps(image)
    last = found[max(place for place, (name, _) in enumerate(found) if name == "FROM") :]
    users = [rest for name, rest in last if name == "USER"]
    assert users == [f"{USER}:{USER}"]
    assert not any(name == "ENTRYPOINT" for name, _ in found)  # Dagster starts run workers by their arguments alone
    ran = " ".join(rest for name, rest in last if name == "RUN")
    assert "pip uninstall" in ran
    assert ("gcc" in ran) == (image == "jobs")  # torch.compile needs it there


@pytest.mark.parametrize("image", IMAGES)
def test_the_base_is_pinned_and_packages_come_from_the_lock(image: str) -> None:
    found = steps(image)
    bases = [rest for name, rest in found if name == "ARG" and rest.startswith("PYTHON=")]
    assert re.fullmatch(r"PYTHON=python:3\.11\.\d+-slim-\w+", bases[0])
    assert all(rest.startswith("${PYTHON}") for name, rest in found if name == "FROM")
    installs = [rest for name, rest in found if name == "RUN" and "pip install" in rest]
    assert f"lock.py requirements.txt pyproject.toml {image} > chosen.txt" in installs[0]
    assert "--require-hashes --no-deps" in installs[0]
    assert len(installs) == 2
    assert "--no-deps --no-build-isolation" in installs[1]


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_has_the_locks_own_versions(image: str) -> None:
    lock = set(LOCK.splitlines())
    assert set(chosen(LOCK, PROJECT, image).splitlines()) <= lock


def names(image: str) -> set[str]:
    return set(re.findall(r"^([a-z0-9._-]+)==", chosen(LOCK, PROJECT, image), re.MULTILINE))


def test_jobs_have_everything_but_what_developers_need() -> None:
    assert names("jobs") == needed()
    assert not names("jobs") & {"moto", "mypy", "playwright", "pytest", "ruff", "kubernetes-validate"}


def needed() -> set[str]:
    """The packages that ours ask for, directly or not, as their own metadata says."""
    found: dict[tuple[str, frozenset[str]], None] = {}
    todo = [Requirement(text) for text in requires("backdrop") or [] if "extra ==" not in text]
    while todo:
        asked = todo.pop()
        key = (re.sub(r"[-_.]+", "-", asked.name).lower(), frozenset(asked.extras))
        if key in found:
            continue
        found[key] = None
        try:
            more = [Requirement(text) for text in requires(asked.name) or []]
        except PackageNotFoundError:  # for another platform
            del found[key]
            continue
        extras = {"", *asked.extras}
        todo += [one for one in more if one.marker is None or any(one.marker.evaluate({"extra": e}) for e in extras)]
    return {name for name, _ in found}


@pytest.mark.integration
def test_services_do_without_the_libraries_of_the_gpu() -> None:
    left_out = names("jobs") - names("services")
    assert {"torch", "triton", "mosaicml", "nvidia-cudnn-cu12"} <= left_out
    assert "mosaicml-streaming" in names("services")
    assert all(COMPUTE.fullmatch(name) for name in left_out)
    # What services import when they start, with those packages away.
    code = f"""
import importlib, sys
away = {{"torch", "torchvision", "torchmetrics", "triton", "composer"}}
class Away:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in away:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Away())
for name in {SERVED!r}:
    importlib.import_module(name)
import infra.shards.writing
infra.shards.writing._class()  # a takedown rewrites the shards that hold an image
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


SERVED = [
    "orchestration.definitions",
    "orchestration.cli",
    "orchestration.doctor_cluster",
    "orchestration.migrate",
    "orchestration.reaping",
    "orchestration.takedown",
    "orchestration.trace",
    "assets.curation.takedown",
    "training.latent_slices",
    "training.personalise.subject",
    "deploy.ancestry",
    "infra.jobs.kubernetes.launcher",
    "infra.jobs.kubernetes.reaper",
    "infra.tracking",
    "infra.catalog",
    "infra.s3",
    "deploy.registry",
    "dagster_k8s",
    "dagster_postgres",
    "dagster_webserver",
    "mlflow.cli",
]
