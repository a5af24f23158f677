"""Distillation: what the student is asked for, and the targets it gets."""

import torch

from training.draws import Draws
from training.models.dit import DiT, DiTConfig, as_flow_map
from training.presets.sections import DistilSection
from training.recipes.distil import anchors, distillation_loss, guided_velocity, split_target, times_and_steps

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


def whole(count: int) -> Draws:
    return Draws(0, 0, torch.arange(count), count)


def test_anchors_are_the_share_of_the_global_batch_and_the_same_on_every_rank() -> None:
    for total, share, expected in ((64, 0.25, 16), (10, 0.25, 2), (3, 0.25, 1), (2, 0.9, 1), (7, 0.99, 6)):
        assert anchors(whole(total), share).sum() == expected
    all_of_it = anchors(whole(64), 0.25)
    halves = [anchors(Draws(0, 0, torch.arange(32) + first, 64), 0.25) for first in (0, 32)]
    assert torch.equal(torch.cat(halves), all_of_it)
    assert halves[0].sum() == halves[1].sum()


def test_steps_fit_between_the_time_and_data() -> None:
    anchor = torch.arange(512) < 200
    t, d = times_and_steps(anchor, SECTION, whole(512))
    assert not d[:200].any()
    assert set(d[200:].tolist()) == {0.25, 0.125}
    assert (t - d >= -1e-6).all()
    assert t.max() <= 1


def test_the_sampler_s_own_steps_are_trained() -> None:
    t, d = times_and_steps(torch.zeros(4096, dtype=torch.bool), SECTION, whole(4096))
    own = d == 0.25
    for place in (1.0, 0.75, 0.5, 0.25):
        assert (own & (t == place)).sum() > 100


def batch(count: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {
        "latent": torch.randn(count, 4, 4, 4),
        "masked": torch.randn(count, 3, 4, 4, 4),
        "masks": torch.randint(0, 256, (count, 3, 4, 4), dtype=torch.uint8),
        "text": torch.randn(count, 1, 3, 8),
        "text_length": torch.full((count, 1), 3),
        "has_product": torch.ones(count, dtype=torch.bool),
    }


def test_each_sample_s_error_is_against_its_own_target() -> None:
    teacher, student = awake(), as_flow_map(awake())
    unguided = DistilSection(student_steps=4, guidance_low=1.0, guidance_high=1.0)
    found = distillation_loss(teacher, unguided)(student, batch(8), whole(8))
    assert found["anchor"] < 1e-9  # at d = 0 and without guidance the student is its teacher
    assert found["split"] > 1e-3


def test_two_ranks_halves_add_up_to_the_whole_batch_s_loss() -> None:
    teacher, student = awake(), as_flow_map(awake())
    loss, given = distillation_loss(teacher, SECTION), batch(8)
    all_of_it = loss(student, given, whole(8))
    for size in (4, 1):  # of single samples most have no anchor at all
        parts = []
        for first in range(0, 8, size):
            part = {name: column[first : first + size] for name, column in given.items()}
            parts.append(loss(student, part, Draws(0, 0, torch.arange(size) + first, 8)))
        for name, value in all_of_it.items():
            found = torch.stack([part[name] for part in parts]).mean()
            torch.testing.assert_close(found, value, atol=1e-5, rtol=1e-4, msg=f"{name} in parts of {size}")
    single = {name: column[1:2] for name, column in given.items()}
    assert loss(student, single, Draws(0, 0, torch.tensor([1]), 8))["loss"].isfinite()  # no anchor in it at all


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
