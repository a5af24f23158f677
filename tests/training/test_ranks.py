"""One, two and one rank again: the same run. Real processes over gloo, with a tiny model."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from infra.errors import BackdropError
from infra.jobs.ranks import Place, complete, place
from tests.training.world import BATCH, Outcome, Run, World
from training._compat import composer
from training.ranks import join, share_of

AFTER_EACH_CHANGE = 20


def largest_difference(one: Outcome, other: Outcome) -> float:
    assert one.code == other.code == 0, (one.error, other.error)
    assert len(one.curve) == len(other.curve)
    return max(abs(a["loss"] - b["loss"]) for a, b in zip(one.curve, other.curve, strict=True))


@pytest.mark.integration
def test_ranks_may_change_between_the_lives_of_a_run(world: World, tmp_path: Path) -> None:
    steps, seldom = 3 * AFTER_EACH_CHANGE, {"save_seconds": 0.15}
    whole = world.run(Run(str(tmp_path / "whole"), steps, buckets=True, section=seldom))
    folder = str(tmp_path / "elastic")
    assert world.run(Run(folder, steps, buckets=True, kill=20, section=seldom)).code == -9
    assert world.run(Run(folder, steps, buckets=True, ranks=2, kill=40, section=seldom)).code == -9
    elastic = world.run(Run(folder, steps, buckets=True, section=seldom))
    assert elastic.metadata["resumed_at_step"] > 20
    assert largest_difference(whole, elastic) < 1e-5
    for step, numbers in whole.samples.items():  # what rank 0 has seen is its half of the same batch, or all of it
        assert elastic.samples[step] in (numbers, numbers[: BATCH // 2])


@pytest.mark.integration
@pytest.mark.parametrize("checkpoints", ["whole", "sharded"])
def test_sharded_weights_learn_the_same(world: World, tmp_path: Path, checkpoints: str) -> None:
    steps, section = 6, {"sharding": "fsdp", "checkpoints": checkpoints}
    whole = world.run(Run(str(tmp_path / "whole"), steps))
    folder = str(tmp_path / "sharded")
    assert world.run(Run(folder, steps, ranks=2, kill=4, section=section)).code == -9
    sharded = world.run(Run(folder, steps, ranks=2, section=section))
    assert sharded.metadata["resumed_at_step"] > 0
    assert largest_difference(whole, sharded) < 1e-5
    ours, theirs = whole.weights(), sharded.weights()
    for name, value in theirs.items():
        assert (value - ours[name]).abs().max() < 1e-6, name
    (step,) = Path(folder).glob(f"save/checkpoints/*/step-{steps:08d}")
    assert (step / "whole.pt").exists() == (checkpoints == "whole")


@pytest.mark.integration
def test_the_parts_of_every_node_are_in_the_store(world: World, tmp_path: Path) -> None:
    section = {"sharding": "fsdp", "checkpoints": "sharded", "keep_in_store": True}
    run = Run(str(tmp_path), steps=6, ranks=2, nodes=True, section=section)
    assert world.run(replace(run, kill=4)).code == -9
    for disk in tmp_path.glob("save-*"):
        shutil.rmtree(disk)
    assert world.run(run).metadata["resumed_at_step"] == 4


@pytest.mark.integration
def test_a_checkpoint_of_another_layout_is_passed_over(world: World, tmp_path: Path) -> None:
    run = Run(str(tmp_path), steps=6, ranks=2, section={"sharding": "fsdp", "checkpoints": "sharded"})
    assert world.run(replace(run, kill=4)).code == -9
    anew = world.run(replace(run, section={}))
    assert (anew.code, anew.metadata["resumed_at_step"]) == (0, 0)


@pytest.mark.integration
def test_a_rank_that_dies_is_named_and_asked_to_stop_all_save(world: World, tmp_path: Path) -> None:
    dead = world.run(Run(str(tmp_path / "run"), ranks=2, kill=3, kill_rank=1))
    assert "rank 1 of 2 ended with code -9" in dead.error
    assert dead.code == 75  # to be tried again
    assert world.run(Run(str(tmp_path / "run"), ranks=2, stop=5)).code == 143
    done = world.run(Run(str(tmp_path / "run"), ranks=2))
    assert done.metadata["resumed_at_step"] == 6
    assert done.metadata["ranks"] == 2


def test_the_place_is_what_torchrun_and_composer_say() -> None:
    assert place({}) == Place()
    torchrun: dict[str, Any] = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    given = {**torchrun, "GROUP_RANK": "1"}
    complete(given)
    assert given["NODE_RANK"] == "1"  # which torchrun does not set and Composer needs
    assert place(given) == Place(5, 8, 1, 4, 1)
    alone: dict[str, str] = {}
    complete(alone)
    assert alone["WORLD_SIZE"] == "1"


def test_ranks_wait_for_each_other_as_long_as_a_checkpoint_travels(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(composer, "initialize_dist", lambda device, timeout: waits.append(timeout))
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    for name, value in {"RANK": 1, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "NODE_RANK": 1}.items():
        monkeypatch.setenv(name, str(value))
    assert join(torch.device("cpu")) == Place(1, 2, 0, 1, 1)
    (seconds,) = waits
    assert seconds * 50e6 > 16e9  # bytes at 50 MB/s


def test_a_batch_that_the_ranks_cannot_share_is_refused() -> None:
    assert share_of(12, Place(ranks=3)) == 4
    with pytest.raises(BackdropError, match="a batch of 8 cannot be shared by 3 ranks"):
        share_of(8, Place(ranks=3))
