"""The maths at its boundary values."""

import pytest
import torch

from training import flow
from training.draws import Draws
from training.editing import time_grid


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 8, 4, 4, generator=generator), torch.randn(4, 8, 4, 4, generator=generator)


def test_t_0_is_data_and_t_1_is_noise() -> None:
    x, noise = pair()
    assert torch.equal(flow.interpolate(x, noise, torch.zeros(4)), x)
    assert torch.equal(flow.interpolate(x, noise, torch.ones(4)), noise)


def test_velocity_is_the_derivative_of_the_line() -> None:
    x, noise = pair()
    early, late = (flow.interpolate(x, noise, torch.full((4,), t)) for t in (0.25, 0.75))
    torch.testing.assert_close((late - early) / 0.5, flow.velocity(x, noise))


def test_guidance_1_is_conditional_bit_for_bit_and_0_unconditional() -> None:
    conditional, unconditional = pair()
    assert torch.equal(flow.guide(conditional, unconditional, 1.0), conditional)
    torch.testing.assert_close(flow.guide(conditional, unconditional, 0.0), unconditional)
    per_sample = flow.guide(conditional, unconditional, torch.tensor([1.0, 0.0, 2.0, 1.0]))
    torch.testing.assert_close(per_sample[2], 2 * conditional[2] - unconditional[2])
    assert torch.equal(per_sample[3], conditional[3])


def draws(count: int, step: int = 0, positions: list[int] | None = None) -> Draws:
    return Draws(0, step, torch.arange(count) if positions is None else torch.tensor(positions), count)


def test_times_are_inside_the_interval_and_logit_normal() -> None:
    t = flow.logit_normal_times(draws(4096), 0.5, 1.2)
    assert t.min() > 0
    assert t.max() < 1
    assert abs(torch.logit(t).mean() - 0.5) < 0.05
    assert abs(torch.logit(t).std() - 1.2) < 0.05


def test_times_cover_their_distribution_evenly_in_every_batch_and_do_not_know_the_rank() -> None:
    whole = flow.logit_normal_times(draws(8, step=3), 0.0, 1.0)
    stratum = torch.special.ndtr(torch.logit(whole)) * 8
    assert sorted(stratum.long().tolist()) == list(range(8))
    assert torch.equal(flow.logit_normal_times(draws(8, step=3, positions=[6, 7]), 0.0, 1.0), whole[6:])
    assert not torch.equal(flow.logit_normal_times(draws(8, step=4), 0.0, 1.0), whole)


def test_the_shift_moves_times_towards_noise_and_keeps_the_ends() -> None:
    t = torch.linspace(0, 1, 101)
    assert torch.equal(flow.shifted(t, 1.0), t)
    moved = flow.shifted(t, 3.0)
    assert (moved[0], moved[-1]) == (0, 1)
    assert (moved[1:-1] > t[1:-1]).all()
    assert moved[50] == pytest.approx(0.75)  # 3 · ½ / (1 + 2 · ½)
    assert torch.equal(flow.logit_normal_times(draws(64), 0.0, 1.0, 3.0), flow.shifted(logit_normal(64), 3.0))
    assert flow.resolution_shift(1024, 0) == flow.resolution_shift(256, 256) == 1.0
    assert flow.resolution_shift(1024, 256) == 2.0


def logit_normal(count: int) -> torch.Tensor:
    return flow.logit_normal_times(draws(count), 0.0, 1.0)


def test_the_sampler_s_times_are_shifted_as_those_of_training() -> None:
    assert time_grid(4) == [1.0, 0.75, 0.5, 0.25, 0.0]
    even = torch.tensor(time_grid(10), dtype=torch.float64)
    torch.testing.assert_close(torch.tensor(time_grid(10, 3.0), dtype=torch.float64), flow.shifted(even, 3.0))


def test_a_noise_target_is_the_same_error_seen_in_the_noise() -> None:
    x, noise = pair()
    t = torch.tensor([0.1, 0.4, 0.7, 1.0])
    z = flow.interpolate(x, noise, t)
    guess = flow.velocity(x, noise) + torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    implied = z + (1 - t)[:, None, None, None] * guess  # the noise that the guessed velocity means
    in_noise = (implied - noise).square().mean((1, 2, 3))
    in_velocity = (guess - flow.velocity(x, noise)).square().mean((1, 2, 3))
    torch.testing.assert_close(flow.noise_weight(t, None) * in_velocity, in_noise)


def test_min_snr_bounds_the_weight_where_there_is_little_noise() -> None:
    t = torch.linspace(0.01, 1, 100)
    snr = (1 - t).square() / t.square()
    plain, bounded = flow.noise_weight(t, None), flow.noise_weight(t, 5.0)
    torch.testing.assert_close(bounded, plain * snr.clamp(max=5.0) / snr.clamp(min=1e-12), atol=1e-6, rtol=1e-4)
    assert (bounded < plain)[snr > 5.1].all()
    assert torch.equal(bounded[snr < 4.9], plain[snr < 4.9])


def test_error_is_split_between_hole_and_rest_whatever_their_sizes() -> None:
    target = torch.zeros(2, 3, 4, 4)
    mask = torch.zeros(2, 1, 4, 4)
    mask[0, :, 0, 0] = 1.0
    mask[1] = 1.0
    predicted = target + mask  # wrong by one in the hole, right elsewhere
    torch.testing.assert_close(flow.weighted_error(predicted, target, mask, 0.9), torch.tensor([0.9, 0.9]))
    predicted = target + (1 - mask)
    torch.testing.assert_close(flow.weighted_error(predicted, target, mask, 0.9), torch.tensor([0.1, 0.0]))
