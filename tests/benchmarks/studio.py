"""The studio under load: preset nano's shapes, two cores, four candidates of a one-megapixel photograph.

A real MLflow server, catalog and store, the studio as its own process, the clients in this one. Weights are random at
the preset's shapes, and so is the reward model's: neither time nor memory depends on them. Open loop: requests are
sent by the clock, whether or not the one before has been answered, so that a slow answer delays nobody's start.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from infra.object_store import ObjectStore, open_store
from tests.benchmarks.promise import Promise
from tests.deploy.studio.stage import Served, Stage, open_stage, served

PRESET = "nano"
SIDE = 1024
SECONDS = float(os.environ.get("BENCH_SECONDS", "60"))
REQUESTS = int(os.environ.get("BENCH_REQUESTS", "2000"))
WARM = 200
CLIENTS = 64
OPEN_LOOP_BAR, CROWD_BAR, MEMORY_BAR, SWAP_BAR = 1.5, 10.0, 32.0, 20.0


@dataclass(frozen=True)
class Answer:
    """How one request went. `began` and `seconds` on the client's clock."""

    status: int
    began: float
    seconds: float
    told: dict[str, Any]

    @property
    def version(self) -> str:
        return str(self.told["answers"][0]["version"])


def promises() -> Iterator[Promise]:
    with playing() as (studio, stage, versions):
        photograph = _photograph()
        asyncio.run(open_loop(studio, photograph, 8, 1.0))  # the first answers fill caches
        found = asyncio.run(open_loop(studio, photograph, round(SECONDS), 1.0))
        _told("open loop", found)
        yield Promise("open loop at 1 request/s, requests that failed", _failed(found), 0, at_least=False)
        yield Promise("open loop at 1 request/s, p95", _p95(found), OPEN_LOOP_BAR, "s", at_least=False)

        crowd = asyncio.run(open_loop(studio, photograph, CLIENTS, 0.0))
        _told(f"{CLIENTS} at once", crowd)
        bad = sum(answer.status not in (200, 429) for answer in crowd)
        yield Promise(f"{CLIENTS} clients at once, neither answered nor 429", bad, 0, at_least=False)
        yield Promise(f"{CLIENTS} clients at once, accepted p95", _p95(crowd), CROWD_BAR, "s", at_least=False)

        promoted: list[float] = []
        found = asyncio.run(_while_promoting(studio, stage, versions, photograph, promoted))
        _told("promotion under load", found)
        first = min((a.began + a.seconds for a in found if a.version == versions[1]), default=float("inf"))
        yield Promise("promotion under load, requests that failed", _failed(found), 0, at_least=False)
        yield Promise("promotion under load, new version answers after", first - promoted[0], SWAP_BAR, "s",
                      at_least=False)  # fmt: skip

        grown, floor = memory(studio, _photograph(SIDE // 2))
        print(f"memory after {WARM} requests {floor:.0f} MB, {REQUESTS} more: {grown:+.1f} MB", flush=True)
        yield Promise(f"memory, growth over {REQUESTS} requests", grown, MEMORY_BAR, "MB", at_least=False)
        yield Promise("product pixels violated", studio.metric("product_pixels_violated_total"), 0, at_least=False)


@contextmanager
def playing() -> Iterator[tuple[Served, Stage, list[str]]]:
    """The studio on a line of its own with two engines, the first of them champion; all gone afterwards."""
    from infra.database import ensure_postgres, remove_postgres

    base = Path(tempfile.mkdtemp(prefix="backdrop-bench-"))
    try:
        store = open_store((base / "store").as_uri())
        engine = nano_engine(store, base)
        postgres = ensure_postgres(base / "postgres")
        with open_stage(postgres, base / "state", store, "bench", PRESET) as stage:
            versions = [stage.register(bundle) for bundle in (engine, stage.sibling(engine, "second"))]
            for version in versions:
                _reward(store, stage.registry.version("backdrop-engine", version).bundle)
            stage.promote(versions[0])
            with served(stage, base / "studio.log") as studio:
                studio.wait_ready()
                yield studio, stage, versions
    finally:
        remove_postgres(base / "postgres")
        shutil.rmtree(base, ignore_errors=True)


def nano_engine(store: ObjectStore, folder: Path) -> str:
    """An exported engine of random weights; its bundle's id."""
    from deploy.export import run
    from deploy.specs import ExportSpec
    from infra.jobs.program import JobContext
    from infra.shards import FILTERED_COLUMNS, make_version, write_slice
    from tests.benchmarks.engines import _models
    from tests.deploy.conftest import row
    from training.models.io import save_model
    from training.presets import load_preset

    autoencoder, student, size = _models()
    meta = {"image_size": size}
    rows = [row(number, True, True) for number in range(4)]
    dataset = make_version(store, [write_slice(store, "slices", FILTERED_COLUMNS, rows, {"split": "holdout"})]).version
    section = load_preset(PRESET).export.model_copy(
        # Random weights, larger than trained ones, are no subject for parity.
        update={"latency_runs": 1, "backend": "onnxruntime", "tolerance": 1.0, "node_tolerance": 1e9}
    )
    spec = ExportSpec(
        store=store.uri,
        output="stages/tensorrt_engine/first",
        autoencoder=save_model(store, "models/a", "autoencoder", autoencoder, meta),
        student=save_model(store, "models/s", "dit", student, meta),
        probe=dataset,
        image_size=size,
        config=section,
    )
    (folder / "job").mkdir()
    return str(run(spec, JobContext(spec, store, spec.output, folder / "job")).data["engine"])


def _reward(store: ObjectStore, engine: str) -> None:
    """A reward model, and the report's result by which the studio finds it."""
    import torch

    from evaluation.reward import Reward, save_reward
    from evaluation.reward_network import RewardConfig, RewardNetwork
    from infra.bundles import open_bundle
    from infra.jobs.spec import JobResult

    torch.manual_seed(0)
    width = int(open_bundle(store, engine).meta["text_encoder"]["width"])
    network = RewardNetwork(RewardConfig(text_width=width))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    bundle = save_reward(store, "reward", Reward(network, lambda captions: (np.zeros(0), np.zeros(0))), {})
    result = JobResult(data={"engine": engine, "reward": bundle})
    store.put(f"stages/evaluation_report/{engine[:12]}/result.json", result.model_dump_json().encode())


def _photograph(side: int = SIDE) -> dict[str, bytes]:
    from assets.sample_catalogue.renderer import render
    from infra.images import encode_jpeg, encode_png

    scene = render(0, 0, side)
    mask = scene.product_mask.astype(np.uint8) * 255
    return {"photograph": encode_jpeg(scene.image), "mask": encode_png(mask)}


async def open_loop(studio: Served, photograph: dict[str, bytes], count: int, apart: float) -> list[Answer]:
    """`count` requests that begin `apart` seconds from one another."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=studio.url, timeout=120, limits=limits, trust_env=False) as client:
        began = time.monotonic()

        async def one(number: int) -> Answer:
            await asyncio.sleep(max(0.0, began + number * apart - time.monotonic()))
            return await _ask(client, photograph, number)

        return list(await asyncio.gather(*(one(number) for number in range(count))))


async def _ask(client: httpx.AsyncClient, photograph: dict[str, bytes], number: int) -> Answer:
    began = time.monotonic()
    words = {"prompt": f"a box on a blue floor against a white wall, number {number}", "k": "4", "seed": str(number)}
    answer = await client.post("/v1/background", files=photograph, data=words)
    taken = time.monotonic() - began
    return Answer(answer.status_code, began, taken, answer.json() if answer.status_code == 200 else {})


async def _while_promoting(
    studio: Served, stage: Stage, versions: list[str], photograph: dict[str, bytes], promoted: list[float]
) -> list[Answer]:
    async def promote() -> None:
        await asyncio.sleep(5)
        await asyncio.to_thread(stage.promote, versions[1])
        promoted.append(time.monotonic())

    found, _ = await asyncio.gather(open_loop(studio, photograph, 30, 1.0), promote())
    return found


def memory(studio: Served, photograph: dict[str, bytes]) -> tuple[float, float]:
    """MB that the process has grown by over `REQUESTS`, after `WARM`, and what it had then.

    The shelf of finished pictures is full by then: it is part of both.
    """
    process = psutil.Process(studio.process.pid)

    async def ask(count: int) -> None:
        async with httpx.AsyncClient(base_url=studio.url, timeout=120, trust_env=False) as client:
            for number in range(count):
                assert (await _ask(client, photograph, number)).status == 200

    asyncio.run(ask(WARM))
    floor = process.memory_info().rss / 1e6
    asyncio.run(ask(REQUESTS))
    return process.memory_info().rss / 1e6 - floor, floor


def _failed(found: list[Answer]) -> int:
    return sum(answer.status != 200 for answer in found)


def _p95(found: list[Answer]) -> float:
    return float(np.percentile([answer.seconds for answer in found if answer.status == 200], 95))


def _told(name: str, found: list[Answer]) -> None:
    taken = [answer.seconds for answer in found if answer.status == 200]
    statuses = dict(Counter(answer.status for answer in found))
    stages = {
        stage: round(float(np.median([a.told["latency_ms"][stage] for a in found if a.status == 200])))
        for stage in ("upload", "queue", "engine", "encode")
    }
    print(
        f"{name}: {statuses}, p50 {np.median(taken):.2f} s, p95 {_p95(found):.2f} s, worst {max(taken):.2f} s; "
        f"median ms {stages}",
        flush=True,
    )


if __name__ == "__main__":
    for promise in promises():
        print(promise, flush=True)
