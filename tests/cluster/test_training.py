"""A training that is preempted in a pod: saved within its grace, gone on with in the next pod, its curve whole."""

from __future__ import annotations

import threading
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import pytest

from infra.jobs.events import Event, Metrics
from infra.jobs.spec import JobResult
from infra.shards import FILTERED_COLUMNS, make_version, write_slice
from tests.cluster.server import TestCluster
from tests.cluster.world import World, wait_for
from tests.training.test_recipes import samples
from training import specs
from training.presets.sections import AutoencoderSection

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
STEPS = 60


def test_a_preempted_training_goes_on_where_it_stopped(cluster: TestCluster, world: World, tmp_path: Path) -> None:
    pieces = [write_slice(world.store, "filtered", FILTERED_COLUMNS, samples(24, "train"), {"split": "train"})]
    spec = specs.AutoencoderSpec(
        store=world.store.uri,
        output="stages/autoencoder/1",
        dataset=make_version(world.store, pieces).version,
        image_size=16,
        seed=3,
        config=AutoencoderSection(
            steps=STEPS, batch_size=8, width=16, depth=1, save_seconds=1000, log_every=1, warmup=1
        ),
    )
    world.given = {"default": {**world.settings.default.model_dump(), "grace_s": 60}}
    heard: list[Event] = []
    done: list[JobResult] = []

    def run() -> None:
        done.append(world.launch(spec, "autoencoder", on_event=heard.append, room="training"))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    wait_for(lambda: len(steps_of(heard)) >= 5, "some steps", 120)
    cluster.replace(next(pod["metadata"]["name"] for pod in cluster.list("pods")))
    thread.join(180)
    assert done, "the training did not end"
    assert len(cluster.list("jobs", "batch")) == 1
    assert not list(world.store.list("stages/autoencoder/1/checkpoints/"))  # they have served their purpose
    steps = steps_of(heard)
    assert sorted(set(steps)) == list(range(min(steps), max(steps) + 1))  # no gap
    assert len(steps) == len(set(steps))  # and nothing twice: it saved the step it was at
    assert all(later > earlier for earlier, later in pairwise(steps))
    logs = [world.store.get(key).decode() for key in world.store.list("logs/made/") if key.endswith(".txt")]
    assert len(logs) == 2
    assert any("resuming at step" in log for log in logs)


def steps_of(heard: list[Event]) -> list[int]:
    """The steps of the loss's curve, as they came."""
    found: dict[str, list[int]] = defaultdict(list)
    for event in heard:
        if isinstance(event, Metrics):
            for name in event.values:
                found[name].append(event.step)
    losses = [steps for name, steps in found.items() if "loss" in name]
    return losses[0] if losses else []
