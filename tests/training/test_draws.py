"""Random numbers that depend on seed, step, place and stream alone."""

from __future__ import annotations

import torch

from training.draws import Draws, philox


def draws(positions: list[int], step: int = 3, seed: int = 7, total: int = 8) -> Draws:
    return Draws(seed, step, torch.tensor(positions), total)


def test_philox_gives_the_published_numbers() -> None:
    """Known answers of the Random123 library, file kat_vectors: philox4x32, 10 rounds."""

    def answer(counter: list[int], key: tuple[int, int]) -> list[int]:
        return [int(word) for word in philox(tuple(torch.tensor([word]) for word in counter), key)]

    assert answer([0, 0, 0, 0], (0, 0)) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    full = 0xFFFFFFFF
    assert answer([full] * 4, (full, full)) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    pi = [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344]
    assert answer(pi, (0xA4093822, 0x299F31D0)) == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]


def test_a_draw_does_not_know_its_neighbours() -> None:
    whole = draws(list(range(8)))
    for positions in ([0, 1, 2, 3], [4, 5, 6, 7], [5]):
        part = draws(positions)
        for name, shape in (("a", ()), ("b", (3,)), ("c", (2, 5, 5))):
            assert torch.equal(part.uniform(name, *shape), whole.uniform(name, *shape)[positions])
            assert torch.equal(part.normal(name, *shape), whole.normal(name, *shape)[positions])
        assert torch.equal(part.strata("t"), whole.strata("t")[positions])


def test_streams_steps_and_seeds_differ() -> None:
    first = draws([0, 1]).uniform("a", 64)
    for other in (draws([0, 1]).uniform("b", 64), draws([0, 1], step=4).uniform("a", 64)):
        assert not torch.equal(first, other)
    assert not torch.equal(first, draws([0, 1], seed=8).uniform("a", 64))
    assert not torch.equal(first[0], first[1])


def test_distributions() -> None:
    many = draws(list(range(4096)), total=4096)
    uniform, normal = many.uniform("u", 64), many.normal("n", 63)
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 2e-3
    assert abs(uniform.var() - 1 / 12) < 1e-3
    assert normal.shape == (4096, 63)
    assert normal.isfinite().all()
    assert abs(normal.mean()) < 0.01
    assert abs(normal.std() - 1) < 0.01
    assert abs((normal**4).mean() - 3) < 0.1
    counts = torch.bincount(many.integers("i", 5, 64).flatten(), minlength=5) / (4096 * 64)
    assert counts.shape == (5,)
    assert (counts - 0.2).abs().max() < 5e-3


def test_strata_cover_the_global_batch_once() -> None:
    found = draws(list(range(8))).strata("t")
    assert sorted((found * 8).long().tolist()) == list(range(8))
    assert not torch.equal(found, draws(list(range(8)), step=4).strata("t"))


def test_a_known_size_of_the_global_batch_is_not_read_from_the_device() -> None:
    batch = {"position": torch.arange(2), "global_size": torch.empty(2, device="meta")}
    assert Draws.of(batch, 0, 0, total=8).total == 8
