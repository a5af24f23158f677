"""The batch plan: a function of seed, samples and batch size alone; nothing lost but what it says; reading is local."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from infra.errors import BackdropError
from infra.settings import REPOSITORY
from training.plan import Plan

BUCKETS = {"1x1": [40, 40, 33], "3x4": [40, 7], "4x3": [5]}
FIRSTS = {"1x1": 0, "3x4": 113, "4x3": 160}


def plan(seed: int = 3, batch_size: int = 16, block: int = 32) -> Plan:
    return Plan(seed, BUCKETS, batch_size, block)


def test_an_epoch_holds_each_sample_once_but_what_is_dropped() -> None:
    plans = plan()
    assert len(plans) == 113 // 16 + 47 // 16
    assert plans.dropped == {"1x1": 113 % 16, "3x4": 47 % 16, "4x3": 5}
    for epoch in range(3):
        seen: dict[str, list[int]] = {name: [] for name in BUCKETS}
        for number in range(epoch * len(plans), (epoch + 1) * len(plans)):
            batch = plans.batch(number)
            assert (batch.number, batch.samples.shape, batch.samples.dtype) == (number, (16,), np.int64)
            seen[batch.bucket] += batch.samples.tolist()
        for name, numbers in seen.items():
            assert len(numbers) == len(set(numbers)) == sum(BUCKETS[name]) - plans.dropped[name]
            assert set(numbers) <= set(range(FIRSTS[name], FIRSTS[name] + sum(BUCKETS[name])))


def test_a_batch_does_not_depend_on_what_was_asked_before() -> None:
    forwards = plan()
    numbers = range(3 * len(forwards))
    expected = [forwards.batch(number) for number in numbers]
    again = plan()
    for number in np.random.default_rng(0).permutation(len(numbers)):
        found = again.batch(int(number))
        assert found.bucket == expected[number].bucket
        assert np.array_equal(found.samples, expected[number].samples)


def test_epochs_seeds_and_buckets_are_shuffled_differently() -> None:
    orders = [
        tuple(int(sample) for number in range(len(one)) for sample in one.batch(first + number).samples)
        for one, first in ((plan(), 0), (plan(), len(plan())), (plan(4), 0))
    ]
    assert len(set(orders)) == 3
    assert orders[0] != tuple(sorted(orders[0]))
    buckets = [
        tuple(plan().batch(first + number).bucket for number in range(len(plan()))) for first in (0, len(plan()))
    ]
    assert buckets[0] != buckets[1]
    assert sorted(buckets[0]) == sorted(buckets[1])


def test_the_order_is_the_same_in_every_process_and_version() -> None:
    """Known answer: a plan that changes would make an interrupted run go on with other samples."""
    code = "from training.plan import Plan; print([Plan(7, {'': [9]}, 3).batch(k).samples.tolist() for k in range(4)])"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    known = [[2, 0, 8], [1, 7, 5], [4, 6, 3], [7, 5, 1]]
    assert [Plan(7, {"": [9]}, 3).batch(number).samples.tolist() for number in range(4)] == known
    assert done.stdout.strip() == str(known)


def test_reading_stays_near_a_few_shards() -> None:
    shards, size, block = 64, 32, 128
    plans = Plan(0, {"": [size] * shards}, 16, block)
    for first in range(0, len(plans), block // 16):
        samples = np.concatenate([plans.batch(first + k).samples for k in range(block // 16)])
        assert len(np.unique(samples // size)) == block // size  # whole shards, each read in one block only
    began = [int(plans.batch(k).samples[0]) // size for k in range(len(plans))]
    assert began != sorted(began)


def test_every_sample_is_as_likely_in_every_batch() -> None:
    """And what is dropped is not always the same."""
    epochs, missing = 400, np.zeros(10)
    plans = Plan(1, {"": [4, 6]}, 4)
    for epoch in range(epochs):
        seen = {int(sample) for k in range(2) for sample in plans.batch(2 * epoch + k).samples}
        missing[[sample for sample in range(10) if sample not in seen]] += 1
    assert missing.sum() == 2 * epochs
    assert abs(missing / epochs - 0.2).max() < 0.1  # five standard deviations


def test_a_set_smaller_than_the_batch_is_one_batch() -> None:
    one = Plan(0, {"": [3, 2]}, 64)
    assert (len(one), one.batch_size, one.dropped) == (1, 5, {"": 0})
    assert sorted(one.batch(9).samples.tolist()) == [0, 1, 2, 3, 4]
    several = Plan(0, {"1x1": [3], "3x4": [8]}, 64)
    assert (len(several), several.batch_size, several.dropped) == (1, 8, {"1x1": 3, "3x4": 0})


def test_a_plan_of_some_samples_keeps_their_numbers_and_shards() -> None:
    chosen = np.array([k for k in range(165) if k % 3 and not 40 <= k < 80 and k < 160])  # none of one shard and bucket
    some = plan(batch_size=4).only(chosen)
    numbers = [int(sample) for number in range(len(some)) for sample in some.batch(number).samples]
    counts = {name: sum(first <= k < first + sum(BUCKETS[name]) for k in chosen) for name, first in FIRSTS.items()}
    assert some.sizes == {name: count for name, count in counts.items() if count}
    assert some.dropped == {name: count % 4 for name, count in counts.items() if count}
    assert len(numbers) == len(set(numbers)) == sum(count - count % 4 for count in counts.values())
    assert set(numbers) <= set(chosen.tolist())
    for number in range(len(some)):
        batch = some.batch(number)
        assert all(0 <= k - FIRSTS[batch.bucket] < sum(BUCKETS[batch.bucket]) for k in batch.samples)
    everything = plan().only(np.arange(165))
    assert all(np.array_equal(everything.batch(k).samples, plan().batch(k).samples) for k in range(12))


def test_no_sample_at_all_is_an_error() -> None:
    with pytest.raises(BackdropError, match="no sample"):
        Plan(0, {}, 4)
    with pytest.raises(BackdropError, match="no sample"):
        plan().only(np.array([], np.int64))


def test_a_large_set_costs_little() -> None:
    """Nothing is as long as the set: a batch in the middle of a billion samples needs one block of one bucket."""
    plans = Plan(0, {"": [1000] * 1_000_000}, 1 << 12)
    samples = plans.batch(100_000).samples
    assert len(np.unique(samples)) == 1 << 12
    assert samples.max() < 1_000_000_000
