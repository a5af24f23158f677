"""The maths at its boundary values."""

import torch

from training import flow


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


def test_euler_walks_a_straight_line_back_to_data_in_any_number_of_steps() -> None:
    x, noise = pair()
    for steps in (1, 3, 8):
        sampled = flow.euler(lambda z, t, step: flow.velocity(x, noise), noise, steps)
        torch.testing.assert_close(sampled, x, atol=1e-5, rtol=0)


def test_guidance_1_is_conditional_and_0_unconditional() -> None:
    conditional, unconditional = pair()
    torch.testing.assert_close(flow.guide(conditional, unconditional, 1.0), conditional)
    assert torch.equal(flow.guide(conditional, unconditional, 0.0), unconditional)
    per_sample = flow.guide(conditional, unconditional, torch.tensor([1.0, 0.0, 2.0, 1.0]))
    torch.testing.assert_close(per_sample[2], 2 * conditional[2] - unconditional[2])


def test_times_are_inside_the_interval_and_logit_normal() -> None:
    t = flow.logit_normal_times(4096, 0.0, 1.0, torch.Generator().manual_seed(0))
    assert t.min() > 0
    assert t.max() < 1
    assert abs(torch.logit(t).mean()) < 0.05
    assert abs(torch.logit(t).std() - 1) < 0.05


def test_error_is_split_between_hole_and_rest_whatever_their_sizes() -> None:
    target = torch.zeros(2, 3, 4, 4)
    mask = torch.zeros(2, 1, 4, 4)
    mask[0, :, 0, 0] = 1.0
    mask[1] = 1.0
    predicted = target + mask  # wrong by one in the hole, right elsewhere
    torch.testing.assert_close(flow.weighted_error(predicted, target, mask, 0.9), torch.tensor([0.9, 0.9]))
    predicted = target + (1 - mask)
    torch.testing.assert_close(flow.weighted_error(predicted, target, mask, 0.9), torch.tensor([0.1, 0.0]))
