"""A run that is killed and resumed is the run that was not: samples, losses, curve and weights, bit for bit."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from tests.training.world import Outcome, Run, World

pytestmark = pytest.mark.integration
STEPS = 12


def same(one: Outcome, other: Outcome) -> None:
    assert one.code == other.code == 0, (one.error, other.error)
    assert one.samples == other.samples
    assert one.losses == other.losses
    timed = ("images_per_second", "tflops", "mfu_of_gemm")
    curves = [[{k: v for k, v in row.items() if k not in timed} for row in run.curve] for run in (one, other)]
    assert curves[0] == curves[1]
    weights = one.weights(), other.weights()
    assert weights[0].keys() == weights[1].keys()
    assert {name.split("/")[0] for name in weights[0]} == {"own", "ema"}
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


@pytest.mark.parametrize("buckets", [False, True])
def test_a_killed_run_resumes_to_the_bit(world: World, tmp_path: Path, buckets: bool) -> None:
    whole = world.run(Run(str(tmp_path / "whole"), STEPS, buckets=buckets, seed=5))
    for kill in random.Random(buckets).sample(range(STEPS), 2):
        folder = str(tmp_path / f"killed-{kill}")
        assert world.run(Run(folder, STEPS, buckets=buckets, seed=5, kill=kill)).code == -9
        again = world.run(Run(folder, STEPS, buckets=buckets, seed=5))
        assert again.metadata["resumed_at_step"] == kill
        same(whole, again)
    assert len({len(numbers) for numbers in whole.samples.values()}) == 1
    assert len(whole.losses) == STEPS
