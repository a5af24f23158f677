"""The small world's engine behind a real registry, three times, and the studio on it as a process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from infra.database import Postgres
from tests.deploy.conftest import World
from tests.deploy.studio.pictures import photograph, png_of, saved
from tests.deploy.studio.stage import MODEL, Served, Stage, open_stage, served


@dataclass(frozen=True)
class Playing:
    """The studio, the stage it plays on, its versions, and what it answered before there was a champion.

    The first version is champion until a test promotes another; the second is challenger.
    """

    studio: Served
    stage: Stage
    versions: list[str]
    before: dict[str, httpx.Response]


@pytest.fixture(scope="package")
def playing(world: World, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playing]:
    folder = tmp_path_factory.mktemp("studio")
    with open_stage(postgres, folder / "state", world.store, folder.name) as stage:
        # Siblings only: to register one is to sign it with the stage's key, and the world's engine has its own.
        versions = [stage.register(stage.sibling(world.engine, f"sibling{number}")) for number in (1, 2, 3)]
        with served(stage, folder / "log.txt") as studio:
            image, product = photograph()
            with studio.client() as client:
                before = {path: client.get(path) for path in ("/", "/healthz", "/readyz", "/v1/status", "/v1/samples")}
                before["post"] = client.post(
                    "/v1/background",
                    data={"prompt": "a wall"},
                    files={"photograph": saved(image, "PNG"), "mask": png_of(product)},
                )
            stage.promote(versions[0])
            stage.registry.set_alias(MODEL, "challenger", versions[1])
            studio.wait_ready()
            yield Playing(studio, stage, versions, before)


@pytest.fixture
def client(playing: Playing) -> Iterator[httpx.Client]:
    with playing.studio.client() as found:
        yield found
