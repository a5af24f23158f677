"""Distillation: what the student is asked for, and the targets it gets."""

import torch

from training.models.dit import DiT, DiTConfig
from training.presets.sections import DistilSection
from training.recipes.distil import guided_velocity, split_target, times_and_steps

SECTION = DistilSection(student_steps=4)


def awake() -> DiT:
    torch.manual_seed(0)
    model = DiT(DiTConfig(latent_channels=4, width=16, depth=1, heads=2, text_width=8))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def given(count: int = 4) -> tuple[torch.Tensor, ...]:
    latent = (count, 4, 4, 4)
    return (torch.randn(latent), torch.ones(count, 1, 4, 4), torch.randn(count, 3, 8), torch.full((count,), 3))


def test_steps_fit_between_the_time_and_data() -> None:
    t, d = times_and_steps(512, 200, SECTION, torch.Generator().manual_seed(0))
    assert not d[:200].any()
    assert set(d[200:].tolist()) == {0.25, 0.125}
    assert (t - d >= -1e-6).all()
    assert t.max() <= 1


def test_the_sampler_s_own_steps_are_trained() -> None:
    t, d = times_and_steps(4096, 1, SECTION, torch.Generator().manual_seed(0))
    own = d == 0.25
    for place in (1.0, 0.75, 0.5, 0.25):
        assert (own & (t == place)).sum() > 100


def test_guidance_1_is_the_conditional_teacher() -> None:
    teacher, conditions = awake(), given()
    z, t = torch.randn(4, 4, 4, 4), torch.rand(4)
    with torch.no_grad():
        guided = guided_velocity(teacher, z, t, conditions, torch.ones(4))
        torch.testing.assert_close(guided, teacher(z, t, *conditions), atol=1e-5, rtol=1e-5)


def test_a_split_is_two_euler_steps_of_the_guided_teacher() -> None:
    teacher, conditions = awake(), given()
    z, t, d, w = torch.randn(4, 4, 4, 4), torch.full((4,), 0.75), torch.full((4,), 0.25), torch.full((4,), 2.0)
    with torch.no_grad():
        target = split_target(teacher, z, t, d, conditions, w)
        first = guided_velocity(teacher, z, t, conditions, w)
        halfway = z - 0.125 * first
        end = halfway - 0.125 * guided_velocity(teacher, halfway, t - 0.125, conditions, w)
    torch.testing.assert_close(z - 0.25 * target, end)
